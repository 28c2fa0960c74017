"""Runs of one recipe at one budget, summed up: means and spreads as exact as the records are, and how to print them."""

import decimal
import math
import statistics
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from lib.experiments.ledger import records
from lib.experiments.published import METHOD
from lib.experiments.record import Record
from lib.recipes import BUDGETS

Groups = list[tuple[str, list[Record]]]  # recipe name, runs of one resolved recipe at one budget

MEASURES = ("clean", "robust", "robust_strong", "certified", "certified_margin")


def rounded(value: float) -> str:
    """A number to two decimals, to nearest; "-" for NaN."""
    return _decimals(value, decimal.ROUND_HALF_EVEN)


def rounded_down(percent: float) -> str:
    """A percentage to two decimals, never above its value: for anything certified; "-" for NaN."""
    return _decimals(percent, decimal.ROUND_FLOOR)


def with_spread(row: Any, measure: str) -> str:
    """A mean of a `summary`, certified rounded down, and ± its standard deviation where there are several runs."""
    show = rounded_down if "certified" in measure else rounded
    spread = row.get(f"{measure}_spread")
    return show(row[measure]) if spread is None or math.isnan(spread) else f"{show(row[measure])} ± {rounded(spread)}"


def shown_eps(eps: float) -> str:
    """A radius as people write it, "0.3" but "8/255", and never another one."""
    exact, levels = repr(float(eps)), round(255 * eps)
    return f"{levels}/255" if len(exact) > 6 and eps == levels / 255 else exact


def unchanged(results: str | Path) -> list[Record]:
    """The runs of recipes as they are: those with overrides are other experiments."""
    return [record for record in records(results) if not record.overrides]


def groups(runs: Iterable[Record]) -> Groups:
    """Runs by the names of their recipes, budgets from the smallest to the paper's."""
    found: dict[Any, list[Record]] = {}
    for record in runs:
        found.setdefault((BUDGETS.index(record.budget), record.recipe), []).append(record)
    ordered = sorted(found.items(), key=lambda item: (item[0][1].name, item[0][0]))
    return [(recipe.name, sorted(group, key=lambda record: record.seed)) for (_, recipe), group in ordered]


def summary(group: Sequence[Record]) -> dict[str, Any]:
    """The columns of `report.table` that are ours, for the runs of one group, which may be empty."""
    columns: dict[str, Any] = {
        "budget": group[0].budget if group else "",
        "subset": group[0].subset if group else "",
        "runs": len(group),
        "seeds": ", ".join(str(record.seed) for record in group),
        "images": group[0].n if group else 0,
        "our_flops": group[0].recipe.flops if group else math.nan,
        "device": _distinct(record.device for record in group),
        "attack": _distinct(f"{record.attacks['robust']}; {record.recipe.pgd_steps} steps" for record in group),
        "strong_attack": _distinct(record.attacks["robust_strong"] for record in group),
        "certificate": _distinct(record.certificates[METHOD] for record in group if METHOD in record.certificates),
    }
    for measure in MEASURES:
        columns |= _statistics(measure, _percents(group, measure))
    columns |= _statistics("train", [100 * record.history[-1]["accuracy"] for record in group])
    columns |= _statistics("seconds", [_median_epoch(record) for record in group])
    return columns


def summaries(ledger: Groups, recipe: str) -> list[dict[str, Any]]:
    """The `summary` of each group of a recipe, or that of no runs where there is none."""
    return [summary(group) for name, group in ledger if name == recipe] or [summary([])]


def difference(columns: dict[str, Any], measure: str, paper: float) -> float:
    """Ours minus the paper's, in percent; NaN where there is no such pair or ours is on part of the data."""
    ours = columns[measure]
    if columns["subset"] or math.isnan(ours) or math.isnan(paper):
        return math.nan
    return float(decimal.Decimal(repr(ours)) - decimal.Decimal(repr(float(paper))))


def _decimals(value: float, rounding: str) -> str:
    if math.isnan(value):
        return "-"
    # repr is the shortest decimal of the float, so 92.64 stays 92.64
    return str(decimal.Decimal(repr(float(value))).quantize(decimal.Decimal("0.01"), rounding=rounding))


def _median_epoch(record: Record) -> float:
    """Seconds of an epoch at finite p, as nearly all of the paper's are; of any, where a run has none."""
    finite = [row["seconds"] for row in record.history if math.isfinite(row["p"])]
    # the median: a machine that did something else for a while shows in a few epochs
    return statistics.median(finite or [row["seconds"] for row in record.history])


def _distinct(texts: Any) -> str:
    return "; ".join(dict.fromkeys(texts))


def _percents(group: Sequence[Record], measure: str) -> list[Fraction]:
    counts = [(_count(record, measure), record.n) for record in group]
    return [Fraction(100 * count, n) for count, n in counts if count is not None]


def _count(record: Record, measure: str) -> int | None:
    if measure == "certified":
        return record.certified.get(METHOD)
    if measure == "certified_margin":
        return record.certified.get("margin")
    return int(getattr(record, measure))


def _statistics(name: str, values: Sequence[Fraction] | Sequence[float]) -> dict[str, float]:
    # exact until here: a mean of 92.64 must not become 92.63999
    mean = float(sum(values) / len(values)) if values else math.nan
    spread = statistics.stdev(map(float, values)) if len(values) > 1 else math.nan
    return {name: mean, f"{name}_spread": spread}
