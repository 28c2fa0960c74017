"""The twin of a run: an earlier one that trained the very same net and evaluated it otherwise."""

from pathlib import Path

from lib.experiments import ledger
from lib.experiments.record import Record
from lib.recipes import Recipe
from lib.training.checkpoint import Origin

EVALUATION = ("eps_test", "pgd_steps", "test_limit")  # the fields of a recipe that training never reads


def find_twin(path: Path, recipe: Recipe, budget: str, seed: int, origin: Origin) -> tuple[Path, Record] | None:
    """The record beside `path`, and where it lies, whose weights this run would train; None where there is none.

    A twin has the same recipe but for `EVALUATION`, the same budget and seed, and the same clean commit, versions and
    device trained it.

    Args:
        path: where the record of this run will be, which is no twin: a run that is made again trains again.
        recipe: of this run, resolved.
        budget, seed: of this run.
        origin: what would train.
    """
    if origin.dirty is not False:  # no commit says what would train
        return None
    wanted = {"budget": budget, "seed": seed} | origin._asdict()
    for other in sorted(path.parent.glob("*.json")):
        if other != path and other.with_suffix(".safetensors").is_file():
            record = _readable(other)
            if record is not None and _alike(record, recipe) and wanted.items() <= vars(record).items():
                return other, record
    return None


def _readable(path: Path) -> Record | None:
    """None for what an older version wrote, or another process replaces just now: it is in nobody's way here."""
    try:
        return ledger.read(path)
    except (OSError, ValueError):
        return None


def _alike(record: Record, recipe: Recipe) -> bool:
    return record.recipe.replace(**{name: getattr(recipe, name) for name in EVALUATION}) == recipe
