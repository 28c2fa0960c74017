"""The paper's tables as data: accuracies in percent as printed, each row with the recipe that remakes it."""

import math
from functools import cache
from pathlib import Path

import pandas as pd

from lib.recipes import parse_eps

FOLDER = Path(__file__).resolve().parent / "paper"

# the released evaluation behind the printed numbers propagates intervals from the box clipped to valid pixels
METHOD = "interval"

# what the tables print, under the names of our own measures
PRINTED = {"train": "train", "test": "clean", "robust": "robust", "certified": "certified", "seconds": "seconds"}


def numbers() -> list[int]:
    """The tables of the paper that are kept here."""
    return sorted(int(path.stem.removeprefix("table")) for path in FOLDER.glob("table*.csv"))


def published(number: int) -> pd.DataFrame:
    """One table: columns that name a row, among them recipe ("" where it is not remade), then those of `PRINTED`.

    Table 4 prints seconds per epoch, Table 7 train and test accuracy, the others test, robust and certified accuracy.
    Data sets, radii ("8/255"), methods and the like are texts.

    Raises:
        ValueError: the paper's table of that number is not kept here.
    """
    if number not in numbers():
        raise ValueError(f"table is {number!r}, expected one of {', '.join(map(str, numbers()))}")
    return _read(FOLDER / f"table{number}.csv").copy()


def published_row(recipe: str, eps: float) -> dict[str, float] | None:
    """The printed accuracies of a recipe: clean, and robust and certified at that radius; None where there are none.

    NaN is what the paper leaves out: Table 7 has clean accuracies alone.
    """
    for number in numbers():
        table = published(number)
        for row in table[table["recipe"] == recipe].to_dict("records"):
            if "test" in row and ("eps" not in row or parse_eps(row["eps"]) == eps):
                return {ours: row.get(theirs, math.nan) for theirs, ours in PRINTED.items() if ours in _ACCURACIES}
    return None


_ACCURACIES = ("clean", "robust", "certified")


@cache
def _read(path: Path) -> pd.DataFrame:
    # weight_decay "none" is a word
    frame = pd.read_csv(path, dtype={"eps": str}, keep_default_na=False, na_values={name: [""] for name in PRINTED})
    return frame.astype({name: float for name in (*PRINTED, "flops") if name in frame})
