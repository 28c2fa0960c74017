"""What the Snakefile asks: which rows a sweep has, checked before the first job, and the notebook that runs a row."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lib.device import DEVICES
from lib.files import data_folder
from lib.recipes import BUDGETS, load, names
from lib.recipes.values import refuse_unknown

BOOK = Path(__file__).resolve().parents[2] / "book"

_CHAPTERS = {
    "digits": "quickstart",
    "mnist": "mnist",
    "fashion-mnist": "fashion_mnist",
    "cifar10": "cifar10",
    "tiny-imagenet": "tiny_imagenet",
}
_DEFAULTS: dict[str, Any] = {"recipes": "all", "seeds": [0], "data_root": None, "device": "auto", "threads": 2}


class Sweep(NamedTuple):
    """A checked configuration: each recipe with each seed is a row, at the budget that is asked for."""

    recipes: list[str]
    seeds: list[int]
    data_root: str
    device: str
    threads: int  # of one row

    def rows(self, budget: str) -> list[str]:
        """The rows at a budget, as paths below the ledger without suffix: "mnist/linf-dist-net/quick-0"."""
        return [f"{recipe}/{budget}-{seed}" for recipe in self.recipes for seed in self.seeds]

    def arguments(self, recipe: str, budget: str, seed: str) -> str:
        """The options of papermill that make the notebook of `chapter` run this row, quoted for a shell."""
        values = {"recipe": recipe, "budget": budget, "seed": seed, "device": self.device, "data_root": self.data_root}
        return " ".join(f"-p {name} {shlex.quote(value)}" for name, value in values.items())


def configured(config: Mapping[str, Any]) -> Sweep:
    """The sweep of a Snakemake configuration, whose values may also be texts, as the command line gives them.

    Every recipe is read at every budget, so that a mistake in one stops the sweep before its first job. Data lie in
    data_root, else LINF_DATA, else data/, from the folder of the checkout: jobs may run in another one, and elsewhere.

    Raises:
        ValueError: an unknown key or recipe, a bad value, or whatever is wrong in a recipe.
    """
    refuse_unknown(config, _DEFAULTS, "key of the sweep's configuration")
    values = _DEFAULTS | dict(config)
    chosen = names() if values["recipes"] == "all" else _list(values["recipes"])
    # one in a file has no chapter that runs it
    refuse_unknown(chosen, names(), "recipe", "one of recipes/ (`python -m lib run` takes the path of a file)")
    for recipe in chosen:
        for budget in BUDGETS:
            load(recipe, budget)
    seeds = [_whole("seeds", seed, 0) for seed in _list(values["seeds"])]
    refuse_unknown([values["device"]], DEVICES, "device")
    root = BOOK.parent / data_folder(values["data_root"])
    return Sweep(chosen, seeds, str(root), values["device"], _whole("threads", values["threads"], 1))


def chapter(recipe: str) -> Path:
    """The notebook that runs a shipped recipe: the chapter of its data set, or of its kind of net."""
    stem = "convolution" if "/conv-" in recipe else _CHAPTERS[recipe.partition("/")[0]]
    return BOOK / f"{stem}.ipynb"


def _list(value: Any) -> list[Any]:
    """["0", "1"] of "0,1"; a single value gives a list of it."""
    if isinstance(value, list):
        return value
    return value.split(",") if isinstance(value, str) else [value]


def _whole(name: str, value: Any, least: int) -> int:
    text = str(value)
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{name} has {value!r}, expected whole numbers of at least {least}")
    return int(text)
