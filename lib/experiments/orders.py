"""Which rows the paper puts above which, and whether ours stand in that order."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lib.experiments.published import comparisons, published_row
from lib.experiments.summary import Groups, summaries
from lib.recipes import BUDGETS, load

# of one run alone, which has none: seeds of one row differ by about this much
ASSUMED_SPREAD = 1.0

VERDICTS = SAME, OPPOSITE, CLOSE, NONE = "the same", "the opposite", "too close to say", "no equal runs"


def orders(ledger: Groups) -> pd.DataFrame:
    """The comparisons of the paper and its follow-ups, at the largest budget at which we have both rows on equal data.

    Columns: place, claim (which row is ahead), first, second (recipes), measure ("certified", "clean" or "train");
    paper and ours, first minus second in points; spread, that of the difference of two single runs; budget, runs (of
    the first and of the second), subset; verdict. Without such runs ours is NaN.
    """
    rows = []
    for comparison in comparisons().to_dict("records"):
        first, second, measure = comparison["first"], comparison["second"], comparison["measure"]
        paper = _published(first, measure) - _published(second, measure)
        rows.append(comparison | {"paper": paper} | _ours(ledger, first, second, measure))
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


def _ours(ledger: Groups, first: str, second: str, measure: str) -> dict[str, Any]:
    pairs = itertools.product(summaries(ledger, first), summaries(ledger, second))
    equal = [(one, other) for one, other in pairs if _equal_data(one, other)]
    if not equal:
        return {"ours": math.nan, "spread": math.nan, "budget": "", "runs": (0, 0), "subset": ""}
    # of one recipe there may be several settings at one budget, if its file was changed in between
    one, other = max(equal, key=lambda pair: (BUDGETS.index(pair[0]["budget"]), min(each["runs"] for each in pair)))
    spreads = [each[f"{measure}_spread"] for each in (one, other)]
    return {
        "ours": one[measure] - other[measure],
        "spread": math.hypot(*(ASSUMED_SPREAD if math.isnan(each) else each for each in spreads)),
        "budget": one["budget"],
        "runs": (one["runs"], other["runs"]),
        "subset": one["subset"],
    }


def _equal_data(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one["runs"] and other["runs"]) and all(one[name] == other[name] for name in ("budget", "subset"))
