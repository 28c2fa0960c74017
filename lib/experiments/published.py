"""The paper's tables as data: accuracies in percent as printed, each row with the recipe that remakes it."""

from pathlib import Path

import pandas as pd

from lib.recipes import parse_eps

FOLDER = Path(__file__).resolve().parent / "paper"

# the released evaluation behind the printed numbers propagates intervals from the box clipped to valid pixels
METHOD = "interval"


def numbers() -> list[int]:
    """The tables of the paper that are kept here."""
    return sorted(int(path.stem.removeprefix("table")) for path in FOLDER.glob("table*.csv"))


def published(number: int) -> pd.DataFrame:
    """One table: dataset, eps (text), method, reference, flops, test, robust, certified, recipe ("" for baselines).

    Raises:
        ValueError: the paper's table of that number is not kept here.
    """
    if number not in numbers():
        raise ValueError(f"table is {number!r}, expected one of {', '.join(map(str, numbers()))}")
    return pd.read_csv(FOLDER / f"table{number}.csv", dtype={"eps": str, "recipe": str}).fillna({"recipe": ""})


def published_row(recipe: str, eps: float) -> dict[str, float] | None:
    """The printed test, robust and certified accuracy of a recipe at that radius, None where the paper has none."""
    for number in numbers():
        rows = published(number)
        for _, row in rows[rows["recipe"] == recipe].iterrows():
            if parse_eps(row["eps"]) == eps:
                return {"clean": row["test"], "robust": row["robust"], "certified": row["certified"]}
    return None
