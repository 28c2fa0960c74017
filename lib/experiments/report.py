"""The paper's tables beside ours, computed from the ledger; rounding happens here, downwards for anything certified."""

import decimal
import math
import statistics
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from lib.experiments.figures import plot_history, plot_radii
from lib.experiments.ledger import records
from lib.experiments.published import METHOD, numbers, published, published_row
from lib.experiments.record import Record
from lib.recipes import BUDGETS, load, names

__all__ = [
    "claims",
    "markdown",
    "plot_history",
    "plot_radii",
    "rounded",
    "rounded_down",
    "row",
    "table",
    "write_tables",
]

MEASURES = ("clean", "robust", "robust_strong", "certified", "certified_margin")

_DAGGER = "†"
_FOOTNOTE = f"{_DAGGER} Made on part of the data, as stated: not comparable with the paper's number."
_NOTE = (
    "Percent of the test images. Ours: mean ± standard deviation where there are several runs; certified by intervals "
    "from the box clipped to valid pixels, as in the released evaluation, and rounded down. The paper's l_inf-dist "
    "rows are medians of 8 runs."
)
_GENERATED = "<!-- Generated from results/ by `make tables`. -->\n\n"


def rounded(percent: float) -> str:
    """A percentage to two decimals, to nearest; "-" for NaN."""
    return _decimals(percent, decimal.ROUND_HALF_EVEN)


def rounded_down(percent: float) -> str:
    """A percentage to two decimals, never above its value: for anything certified; "-" for NaN."""
    return _decimals(percent, decimal.ROUND_FLOOR)


def table(number: int, results: str | Path) -> pd.DataFrame:
    """A table of the paper, one row per budget at which the ledger has runs of the recipe, one row where it has none.

    Columns: dataset, eps, method, reference, flops, recipe; paper_clean, paper_robust, paper_certified; budget, subset,
    runs, seeds; then, unrounded and in percent, the mean of each of `MEASURES` and its standard deviation `*_spread`
    (NaN for one run); difference, ours minus the paper's certified accuracy, NaN where ours is on part of the data.
    "certified" is by intervals, as published. Runs with overrides are other experiments and not in the table.

    Raises:
        ValueError: no such table, or a damaged record.
    """
    printed, groups = published(number), _groups(results)
    rows = []
    for _, paper in printed.iterrows():
        known = {name: paper[name] for name in ("dataset", "eps", "method", "reference", "flops", "recipe")}
        known |= {"paper_clean": paper["test"], "paper_robust": paper["robust"], "paper_certified": paper["certified"]}
        ours = [_summary(group) for name, group in groups if name == paper["recipe"]] or [_summary([])]
        rows += [known | summary | {"difference": _difference(summary, paper["certified"])} for summary in ours]
    return pd.DataFrame(rows)


def claims(results: str | Path) -> pd.DataFrame:
    """What is reproduced at which budget: for every shipped recipe its eps_test, the columns of `table` for our runs,
    and paper_certified, NaN where the paper has no such row."""
    rows, groups = [], _groups(results)
    for recipe in names():
        eps = load(recipe, "paper").eps_test
        certified = (published_row(recipe, eps) or {"certified": math.nan})["certified"]
        for summary in [_summary(group) for name, group in groups if name == recipe] or [_summary([])]:
            known = {"recipe": recipe, "eps": eps, "paper_certified": certified}
            rows.append(known | summary | {"difference": _difference(summary, certified)})
    return pd.DataFrame(rows)


def markdown(frame: pd.DataFrame) -> str:
    """A frame of `table` as Markdown: the paper's numbers, then ours, and a footnote for runs on part of the data."""
    cells = [
        {
            "Data": paper.dataset,
            "eps": paper.eps,
            "Method": f"{paper.method} ({paper.reference})",
            "FLOPs": _flops(paper.flops),
            "Paper: clean": rounded(paper.paper_clean),
            "Paper: robust": rounded(paper.paper_robust),
            "Paper: certified": rounded_down(paper.paper_certified),
        }
        | (_ours(paper) if paper.runs else _nothing(paper.recipe))
        for paper in frame.itertuples()
    ]
    return _render(cells, bool(frame["subset"].any()))


def row(record: Record) -> pd.DataFrame:
    """One run beside the paper's number at the same radius, rounded, as texts."""
    mark = f" {_DAGGER}" if record.subset else ""
    ours = {
        "": f"this run{mark}",
        "budget": record.setting,
        "data": record.subset or "whole test set",
        "eps": f"{record.eps:.4g}",
        "clean (%)": rounded(record.percent(record.clean)),
        "robust (%)": rounded(record.percent(record.robust)),
        "robust, stronger attack (%)": rounded(record.percent(record.robust_strong)),
        "certified (%)": rounded_down(_summary([record])["certified"]),
        "seconds": f"{record.seconds_train + record.seconds_evaluate:.0f}",
    }
    return pd.DataFrame([ours, _paper_cells(record)]).set_index("").fillna("")


def write_tables(results: str | Path, folder: str | Path) -> list[Path]:
    """Writes tableN.md for every table kept, and claims.md, into `folder`; the same ledger gives the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pages = {f"table{number}.md": markdown(table(number, results)) for number in numbers()}
    pages["claims.md"] = _claims_markdown(claims(results))
    for name, text in pages.items():
        (folder / name).write_text(_GENERATED + text, encoding="utf-8")
    return [folder / name for name in pages]


def _decimals(percent: float, rounding: str) -> str:
    if math.isnan(percent):
        return "-"
    # repr is the shortest decimal of the float, so 92.64 stays 92.64
    return str(decimal.Decimal(repr(float(percent))).quantize(decimal.Decimal("0.01"), rounding=rounding))


def _groups(results: str | Path) -> list[tuple[str, list[Record]]]:
    """(recipe name, runs of one resolved recipe at one budget), budgets from the smallest to the paper's."""
    groups: dict[Any, list[Record]] = {}
    for record in records(results):
        if not record.overrides:
            groups.setdefault((BUDGETS.index(record.budget), record.recipe), []).append(record)
    ordered = sorted(groups.items(), key=lambda item: (item[0][1].name, item[0][0]))
    return [(recipe.name, sorted(group, key=lambda record: record.seed)) for (_, recipe), group in ordered]


def _count(record: Record, measure: str) -> int | None:
    if measure == "certified":
        return record.certified.get(METHOD)
    if measure == "certified_margin":
        return record.certified.get("margin")
    return int(getattr(record, measure))


def _percents(group: list[Record], measure: str) -> list[Fraction]:
    counts = [(_count(record, measure), record.n) for record in group]
    return [Fraction(100 * count, n) for count, n in counts if count is not None]


def _summary(group: list[Record]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "budget": group[0].budget if group else "",
        "subset": group[0].subset if group else "",
        "runs": len(group),
        "seeds": ", ".join(str(record.seed) for record in group),
    }
    for measure in MEASURES:
        values = _percents(group, measure)
        # exact until here: a mean of 92.64 must not become 92.63999
        summary[measure] = float(sum(values) / len(values)) if values else math.nan
        summary[f"{measure}_spread"] = statistics.stdev(map(float, values)) if len(values) > 1 else math.nan
    return summary


def _difference(summary: dict[str, Any], paper: float) -> float:
    ours = summary["certified"]
    if summary["subset"] or math.isnan(ours) or math.isnan(paper):
        return math.nan
    return float(decimal.Decimal(repr(ours)) - decimal.Decimal(repr(float(paper))))


def _ours(row: Any) -> dict[str, str]:
    """The cells of our runs of one recipe at one budget."""
    return {
        "Budget": f"{row.budget} {_DAGGER} ({row.subset})" if row.subset else row.budget,
        "Runs (seeds)": f"{row.runs} ({row.seeds})",
        "Ours: clean": _spread(rounded(row.clean), row.clean_spread),
        "Ours: robust": _spread(rounded(row.robust), row.robust_spread),
        "Ours: robust, stronger attack": _spread(rounded(row.robust_strong), row.robust_strong_spread),
        "Ours: certified": _spread(rounded_down(row.certified), row.certified_spread),
        "Ours: certified by margin": _spread(rounded_down(row.certified_margin), row.certified_margin_spread),
        "Difference": rounded_down(row.difference),
    }


def _nothing(recipe: str) -> dict[str, str]:
    return {"Budget": "no run yet" if recipe else "not remade here"}


def _spread(mean: str, deviation: float) -> str:
    return mean if math.isnan(deviation) else f"{mean} ± {rounded(deviation)}"


def _flops(count: float) -> str:
    return f"{count / 1e6:.3g}M"


def _paper_cells(record: Record) -> dict[str, str]:
    paper = published_row(record.recipe.name, record.eps)
    if paper is None:
        return {"": "paper", "data": "no published number for this data and radius"}
    return {
        "": "paper",
        "budget": "paper",
        "data": "whole test set",
        "eps": f"{record.eps:.4g}",
        "clean (%)": rounded(paper["clean"]),
        "robust (%)": rounded(paper["robust"]),
        "certified (%)": rounded_down(paper["certified"]),
    }


def _render(cells: list[dict[str, str]], footnote: bool) -> str:
    columns = list(dict.fromkeys(name for row in cells for name in row))
    lines = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in cells)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return "\n".join([text, _NOTE, *(["", _FOOTNOTE] if footnote else []), ""])


def _claims_markdown(frame: pd.DataFrame) -> str:
    cells = [
        {
            "Recipe": f"`{row.recipe}`",
            "eps": f"{row.eps:.4g}",
            "Paper: certified": rounded_down(row.paper_certified),
        }
        | (_ours(row) if row.runs else _nothing(row.recipe))
        for row in frame.itertuples()
    ]
    return _render(cells, bool(frame["subset"].any()))
