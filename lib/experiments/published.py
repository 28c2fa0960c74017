"""The paper's tables and its follow-ups' rows as data: percent as printed, and the recipe that remakes a row."""

import math
from functools import cache
from pathlib import Path

import pandas as pd

from lib.recipes import parse_eps

FOLDER = Path(__file__).resolve().parent / "paper"

# the released evaluation behind the printed numbers propagates intervals from the box clipped to valid pixels
METHOD = "interval"

# what the tables print, under the names of our own measures
PRINTED = ("train", "clean", "robust", "certified", "seconds")

FOLLOWUPS = "followups"  # same nets, later losses and neurons (ICLR and NeurIPS 2022); robust is under PGD-100


def tables() -> list[int | str]:
    """What can be asked for: the numbers of the paper's tables that are kept here, and last "followups"."""
    numbers = sorted(int(path.stem.removeprefix("table")) for path in FOLDER.glob("table*.csv"))
    return [*numbers, FOLLOWUPS]


def published(number: int | str) -> pd.DataFrame:
    """One table: columns that name a row, among them recipe ("" where it is not remade), then those of `PRINTED`.

    Table 4 prints seconds per epoch, Table 7 train and clean accuracy, the others clean, robust and certified accuracy.
    Data sets, radii ("8/255"), methods and the like are texts; so is, in the follow-ups, of how many runs a row is.

    Raises:
        ValueError: none of `tables`.
    """
    if number not in tables():
        raise ValueError(f"table is {number!r}, expected one of {', '.join(map(str, tables()))}")
    return _read(FOLDER / f"{page_name(number)}.csv").copy()


def comparisons() -> pd.DataFrame:
    """Which row the paper, or a follow-up, puts above which: place, claim, first, second (recipes), measure."""
    return pd.read_csv(FOLDER / "comparisons.csv")


def follows_up(recipe: str) -> bool:
    """Whether a recipe is a follow-up's, whose robust accuracies are after PGD-100 and not after the paper's PGD-20."""
    return recipe in set(published(FOLLOWUPS)["recipe"])


def page_name(number: int | str) -> str:
    """The name of a table's page and of its data: "table1", "followups"."""
    return f"table{number}" if isinstance(number, int) else number


def published_row(recipe: str, eps: float) -> dict[str, float] | None:
    """The printed accuracies of a recipe: train, clean, and robust and certified at that radius; None where there are
    none.

    NaN is what the paper leaves out: Table 7 has train and clean alone, and train is in no other.
    """
    for number in tables():
        table = published(number)
        for row in table[table["recipe"] == recipe].to_dict("records"):
            if "clean" in row and ("eps" not in row or parse_eps(row["eps"]) == eps):
                return {name: row.get(name, math.nan) for name in ("train", "clean", "robust", "certified")}
    return None


@cache
def _read(path: Path) -> pd.DataFrame:
    # weight_decay "none" is a word
    frame = pd.read_csv(path, dtype={"eps": str}, keep_default_na=False, na_values={name: [""] for name in PRINTED})
    return frame.astype({name: float for name in (*PRINTED, "flops") if name in frame})
