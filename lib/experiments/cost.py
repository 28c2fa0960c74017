"""What accuracy costs: the work of a training beside what its net proves, from a laptop's runs to the paper's."""

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.experiments.figures import coloured, styled
from lib.experiments.ledger import records
from lib.experiments.published import published_row
from lib.experiments.record import Record
from lib.experiments.summary import groups, rounded, summary, with_spread
from lib.recipes import Recipe, load

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# the columns of a summary that a cost table has
_KEPT = ("subset", "runs", "images", "clean", "certified", "certified_spread")
# what a run may change and still be a larger or a longer one of the same recipe
_SIZES = {"width", "depth", "hidden", "epochs_const", "epochs_ramp", "epochs_inf"}


def training_work(recipe: Recipe) -> int:
    """Operations of all forward passes of one training image: `Recipe.flops` times the epochs.

    The backward passes, which cost a small multiple of it, are left out, and so is the number of images, which is the
    same for all runs on one data set.
    """
    return recipe.flops * recipe.epochs


def cost_table(recipe: str, results: str | Path) -> pd.DataFrame:
    """What the runs of a recipe on all its training images cost and proved, of other widths, depths and lengths too,
    the least work first, and the paper's row last.

    Columns: budget, changed (of it, in words), width, depth, epochs, work (see `training_work`), of_paper (the share of
    the paper's work), subset (of the data, in words), runs, images, clean and certified (mean, percent),
    certified_spread (standard deviation), and per_decade: points of certified accuracy won over the laptop's for each
    tenfold of its work, NaN where there is none to win over; per_decade_spread: its standard error, if the seeds of
    every size spread like the laptop's. Numbers are unrounded, the paper's certified accuracy is NaN where it has no
    such row.

    Raises:
        ValueError: no such recipe, or a damaged record.
        FileNotFoundError: no such folder.
    """
    paper = load(recipe, "paper")
    same = [record for record in records(results) if _comparable(record, paper)]
    rows = [_row(group) for _, group in groups(same)]
    printed = published_row(recipe, paper.eps_test) or {"clean": math.nan, "certified": math.nan}
    rows = sorted(rows, key=lambda row: (row["work"], row["budget"]))
    theirs = {"clean": printed["clean"], "certified": printed["certified"]}
    rows.append({"budget": "the paper's", "changed": ""} | _shape(paper) | theirs)
    table = pd.DataFrame(rows, columns=["budget", "changed", *_shape(paper), *_KEPT])
    table["of_paper"] = table["work"] / training_work(paper)
    table["per_decade"], table["per_decade_spread"] = _per_decade(table)
    return table


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A `cost_table` as texts, certified accuracy rounded down."""
    columns = {
        "budget": table["budget"] + table["subset"].map(lambda text: " †" if isinstance(text, str) and text else ""),
        "width": table["width"],
        "layers": table["depth"],
        "epochs": table["epochs"],
        "of the paper's work": table["of_paper"].map(_share),
        "runs": table["runs"].map(lambda runs: "" if math.isnan(runs) else f"{runs:.0f}"),
        "clean (%)": table["clean"].map(rounded),
        "certified (%)": [with_spread(row, "certified") for row in table.to_dict("records")],
        "points per tenfold": [_rate(row) for row in table.to_dict("records")],
    }
    return pd.DataFrame(columns).set_index("budget")


def plot_costs(tables: Mapping[str, pd.DataFrame]) -> "Figure":
    """Certified accuracy against the work of training, for `cost_table`s by the name to show: bars where there are
    several seeds, hollow where part of the test set was used, a star and a dashed line for the paper's."""
    figure, (axes,) = styled(1, height=4.2)
    for (name, table), color in coloured(tables):
        _draw(axes, table.iloc[:-1], table.iloc[-1], name, color)
    axes.plot([], [], "o", color="#999999", mfc="none", label="hollow: part of the test set")
    axes.set(xscale="log", ylim=(0, None), ylabel="certified accuracy (%)")
    axes.set_xlabel("work of training (subtractions of all forward passes, per training image)")
    axes.legend(frameon=False, loc="lower right")
    return figure


def _draw(axes: "Axes", ours: pd.DataFrame, paper: Any, name: str, color: str) -> None:
    for _, row in ours.iterrows():
        spread = None if math.isnan(row["certified_spread"]) else row["certified_spread"]
        fill = "none" if row["subset"] else color
        axes.errorbar(row["work"], row["certified"], yerr=spread, fmt="o", color=color, mfc=fill, capsize=3)
    axes.plot([], [], "o", color=color, label=f"{name}, ours")
    axes.plot(paper["work"], paper["certified"], "*", ms=12, color=color, label=f"{name}, paper's")
    start = _laptop(ours)
    if start is not None:
        ends = pd.DataFrame([start, paper])
        axes.plot(ends["work"], ends["certified"], "--", color=color, linewidth=1)


def _comparable(record: Record, paper: Recipe) -> bool:
    same = record.recipe.name == paper.name and record.eps == paper.eps_test
    return same and record.overrides.keys() <= _SIZES and not record.recipe.train_limit


def _share(of_paper: float) -> str:
    if of_paper == 1:
        return "all"
    return f"1/{1 / of_paper:,.0f}" if of_paper <= 0.5 else f"{of_paper:.3g} x"


def _rate(row: Mapping[Hashable, Any]) -> str:
    points, spread = row["per_decade"], row["per_decade_spread"]
    if math.isnan(points):
        return ""
    return f"{points:.1f}" if math.isnan(spread) else f"{points:.1f} ± {spread:.1f}"


def _row(group: Sequence[Record]) -> dict[str, Any]:
    columns, first = summary(group), group[0]
    known = {"budget": first.budget, "changed": first.changes} | _shape(first.recipe)
    return known | {name: columns[name] for name in _KEPT}


def _shape(recipe: Recipe) -> dict[str, Any]:
    return {"width": recipe.width, "depth": recipe.depth, "epochs": recipe.epochs, "work": training_work(recipe)}


def _laptop(rows: pd.DataFrame) -> Any:
    found = rows[(rows["budget"] == "laptop") & (rows["changed"] == "")]
    return found.iloc[0] if len(found) else None


def _per_decade(table: pd.DataFrame) -> tuple[Any, Any]:
    start = _laptop(table)
    if start is None:
        return math.nan, math.nan
    decades = (table["work"] / start["work"]).map(math.log10)
    decades = decades.where(decades > 0)
    error = start["certified_spread"] * (1 / start["runs"] + 1 / table["runs"]) ** 0.5
    return (table["certified"] - start["certified"]) / decades, error / decades
