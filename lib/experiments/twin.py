"""The twin of a run: an earlier one that trained the very same net and evaluated it otherwise."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lib.experiments import ledger
from lib.experiments.record import Record
from lib.nets.models import Net
from lib.nets.store import load
from lib.recipes import Recipe
from lib.recipes.recipe import EVALUATION
from lib.training.checkpoint import Origin
from lib.training.data import is_verified


class Twin(NamedTuple):
    """A record, where it lies, and the net that its run trained."""

    path: Path
    record: Record
    net: Net


def find_twin(path: Path, recipe: Recipe, budget: str, seed: int, origin: Origin) -> Twin | None:
    """The record beside `path` whose net this run would train, with that net; None where there is none that reads.

    A twin has the same recipe but for `EVALUATION`, the same budget and seed; the same clean commit, versions and
    device trained it, on images that are verified by digest.

    Args:
        path: where the record of this run will be, which is no twin: a run that is made again trains again.
        recipe: of this run, resolved.
        budget, seed: of this run.
        origin: what would train.
    """
    # no commit says what would train, or no digest on which images
    if origin.dirty is not False or not is_verified(recipe.dataset):
        return None
    wanted = {"budget": budget, "seed": seed} | origin._asdict()
    for other in sorted(path.parent.glob("*.json")):
        # files that are damaged, gone, of an older version or being replaced just now are in nobody's way here
        with suppress(OSError, ValueError):
            record = ledger.read(other)
            if other != path and _alike(record, recipe) and wanted.items() <= vars(record).items():
                return Twin(other, record, load(other.with_suffix(".safetensors")))
    return None


def _alike(record: Record, recipe: Recipe) -> bool:
    return record.recipe.replace(**{name: getattr(recipe, name) for name in EVALUATION}) == recipe
