"""Which rows the paper puts above which, and whether ours stand in that order."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lib.experiments.published import comparisons, published_row
from lib.experiments.summary import Groups, summary
from lib.recipes import BUDGETS, load

# of one run alone, which has none: seeds of one row differ by about this much
ASSUMED_SPREAD = 1.0

VERDICTS = SAME, OPPOSITE, CLOSE, NONE = "the same", "the opposite", "too close to say", "no equal runs"

Summaries = Mapping[tuple[str, str], dict[str, Any]]


def orders(ledger: Groups) -> pd.DataFrame:
    """The comparisons of the paper and its follow-ups, at the largest budget at which we have both rows on equal data.

    Columns: place, claim (which row is ahead), first, second (recipes), measure ("certified" or "clean"); paper and
    ours, first minus second in points; spread, that of the difference of two single runs; budget, runs (of the first
    and of the second), subset; verdict. Without such runs ours is NaN.
    """
    known: Summaries = {(name, group[0].budget): summary(group) for name, group in ledger}
    rows = []
    for comparison in comparisons().to_dict("records"):
        first, second, measure = comparison["first"], comparison["second"], comparison["measure"]
        paper = _published(first, measure) - _published(second, measure)
        rows.append(comparison | {"paper": paper} | _ours(known, first, second, measure))
    frame = pd.DataFrame(rows)
    return frame.assign(verdict=[verdict(row) for row in frame.to_dict("records")])


def verdict(row: Mapping[str, Any]) -> str:
    """Of `VERDICTS` what a row of `orders` says of the paper's order."""
    if math.isnan(row["ours"]):
        return NONE
    if abs(row["ours"]) <= row["spread"]:
        return CLOSE
    return SAME if (row["ours"] > 0) == (row["paper"] > 0) else OPPOSITE


def _published(recipe: str, measure: str) -> float:
    row = published_row(recipe, load(recipe, "paper").eps_test)
    return math.nan if row is None else row[measure]


def _ours(known: Summaries, first: str, second: str, measure: str) -> dict[str, Any]:
    for budget in reversed(BUDGETS):
        pair = [known.get((recipe, budget)) for recipe in (first, second)]
        one, other = (each or summary([]) for each in pair)
        if all(pair) and one["subset"] == other["subset"]:
            spreads = [each[f"{measure}_spread"] for each in (one, other)]
            return {
                "ours": one[measure] - other[measure],
                "spread": math.hypot(*(ASSUMED_SPREAD if math.isnan(each) else each for each in spreads)),
                "budget": budget,
                "runs": (one["runs"], other["runs"]),
                "subset": one["subset"],
            }
    return {"ours": math.nan, "spread": math.nan, "budget": "", "runs": (0, 0), "subset": ""}
