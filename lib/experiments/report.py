"""The paper's tables beside ours, computed from the ledger; rounding happens here, downwards for anything certified."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lib.experiments.figures import plot_confusion, plot_history, plot_lines, plot_radii, plot_rows, plot_runs
from lib.experiments.markdown import claims_page, orders_page, overview_page, settings_page, table_page
from lib.experiments.orders import orders
from lib.experiments.published import PRINTED, follows_up, page_name, published, published_row, tables
from lib.experiments.record import Record
from lib.experiments.settings import settings
from lib.experiments.summary import (
    MEASURES,
    Groups,
    difference,
    groups,
    rounded,
    rounded_down,
    shown_eps,
    summaries,
    summary,
    unchanged,
    with_spread,
)
from lib.files import replacing
from lib.recipes import load, names

_GENERATED = "<!-- Generated from results/ by `make tables`. -->\n\n"

__all__ = [
    "MEASURES",
    "claims",
    "compared",
    "plot_confusion",
    "plot_history",
    "plot_lines",
    "plot_radii",
    "plot_rows",
    "plot_runs",
    "rounded",
    "rounded_down",
    "row",
    "standing",
    "table",
    "table_page",
    "with_spread",
    "write_tables",
]


def table(number: int | str, results: str | Path) -> pd.DataFrame:
    """A table of the paper, or "followups": a row per budget at which the ledger has runs of the recipe, one if none.

    Columns: those that name the row in the paper (dataset, eps, method, ..., recipe); paper_X for each X it prints
    (clean, robust, certified; train; seconds per epoch); budget, subset, runs, seeds, images, our_flops, device,
    attack, strong_attack, certificate; then, unrounded, the mean of each of `MEASURES` in percent, of train (accuracy
    of the last epoch, percent) and of seconds (of the median epoch at finite p), and its standard deviation `*_spread`
    (NaN for one run); difference, ours minus the paper's certified accuracy (Table 7: clean accuracy), NaN where ours
    is on part of the data. "certified" is by intervals, as published. Runs with overrides are other experiments and not
    in the table.

    Raises:
        ValueError: no such table, or a damaged record.
        FileNotFoundError: no such folder.
    """
    return _beside(published(number), groups(unchanged(results)))


def _beside(printed: pd.DataFrame, ledger: Groups) -> pd.DataFrame:
    """The rows of `table`."""
    measure = "certified" if "certified" in printed else "clean"
    rows = []
    for paper in printed.to_dict("records"):
        known = {name: value for name, value in paper.items() if name not in PRINTED}
        known |= {f"paper_{name}": paper[name] for name in PRINTED if name in paper}
        target = known.get(f"paper_{measure}", math.nan)
        ours = summaries(ledger, paper["recipe"])
        rows += [known | columns | {"difference": difference(columns, measure, target)} for columns in ours]
    return pd.DataFrame(rows)


def claims(results: str | Path) -> pd.DataFrame:
    """What is reproduced at which budget: for every shipped recipe its eps_test, the columns of `table` for our runs,
    and paper_certified, NaN where the paper has no such row. Raises as `table`."""
    return _claims(groups(unchanged(results)))


def _claims(ledger: Groups) -> pd.DataFrame:
    rows = []
    for recipe in names():
        eps = load(recipe, "paper").eps_test
        certified = (published_row(recipe, eps) or {"certified": math.nan})["certified"]
        for columns in summaries(ledger, recipe):
            known = {"recipe": recipe, "eps": eps, "paper_certified": certified}
            rows.append(known | columns | {"difference": difference(columns, "certified", certified)})
    return pd.DataFrame(rows)


def row(record: Record) -> pd.DataFrame:
    """One run beside the paper's number at the same radius, rounded, as texts."""
    return _named([_cells("this run", record), _paper_cells(record)])


def compared(runs: Mapping[str, Record]) -> pd.DataFrame:
    """Runs by name, as in `row`, with the accuracies that the paper prints for their recipes."""
    table = _named([_cells(name, record) for name, record in runs.items()])
    papers = [_paper_cells(record) for record in runs.values()]
    for measure in ("clean (%)", "robust (%)", "certified (%)"):
        theirs = [paper.get(measure, "-") for paper in papers]
        if set(theirs) != {"-"}:
            table.insert(table.columns.get_loc(measure) + 1, f"paper: {measure}", theirs)
    return table


def standing(record: Record) -> pd.DataFrame:
    """How many images of one run are right, withstood each attack, and are proved by each certificate; of how many."""
    counts = {"clean": record.clean, "paper's attack": record.robust, "stronger attack": record.robust_strong}
    counts |= {f"proved by {method}": count for method, count in sorted(record.certified.items(), reverse=True)}
    return pd.DataFrame({"images": counts, "of": record.n})


def write_tables(results: str | Path, folder: str | Path) -> list[Path]:
    """Writes into `folder` tableN.md for every table kept, table1-DATASET.md for its parts, followups.md, claims.md,
    overview.md, orders.md and settings.md.

    The same ledger gives the same bytes, and a number is in no page unless its record is in the ledger.
    """
    ledger, folder = groups(unchanged(results)), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    frames = {page_name(number): _beside(published(number), ledger) for number in tables()}
    frames |= {f"table1-{name.lower()}": part for name, part in frames["table1"].groupby("dataset", sort=False)}
    pages = {f"{name}.md": table_page(frame) for name, frame in frames.items()}
    ours = _claims(ledger)
    pages |= {
        "claims.md": claims_page(ours),
        "overview.md": overview_page(ours),
        "orders.md": orders_page(orders(ledger)),
        "settings.md": settings_page(settings()),
    }
    for name, text in pages.items():
        with replacing(folder / name) as new:
            new.write_text(_GENERATED + text, encoding="utf-8")
    return [folder / name for name in pages]


def _named(rows: list[dict[str, str]]) -> pd.DataFrame:
    """Rows under the names in their column ""; the index has no name itself, which would be a row of empty heads."""
    return pd.DataFrame(rows).set_index("").rename_axis(None).fillna("")


def _cells(name: str, record: Record) -> dict[str, str]:
    cells = {"": f"{name} †" if record.subset else name, "budget": record.budget}
    if record.overrides:
        cells["changed"] = record.changes
    return cells | {
        "data": record.subset or "whole test set",
        "eps": shown_eps(record.eps),
        "clean (%)": rounded(record.percent(record.clean)),
        "robust (%)": rounded(record.percent(record.robust)),
        "robust, stronger attack (%)": rounded(record.percent(record.robust_strong)),
        "certified (%)": rounded_down(summary([record])["certified"]),
        "seconds": f"{record.seconds_train + record.seconds_evaluate:.0f}",
    }


def _paper_cells(record: Record) -> dict[str, str]:
    paper = published_row(record.recipe.name, record.eps)
    if paper is None:
        return {"": "paper", "data": "no published number for this data and radius"}
    return {
        "": "paper",
        "budget": "paper",
        "data": f"whole test set{', PGD-100' if follows_up(record.recipe.name) else ''}",
        "eps": shown_eps(record.eps),
        "clean (%)": rounded(paper["clean"]),
        "robust (%)": rounded(paper["robust"]),
        "certified (%)": rounded_down(paper["certified"]),
    }
