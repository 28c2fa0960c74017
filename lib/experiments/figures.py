"""Figures of one run, drawn from its record and table; matplotlib is imported when the first one is asked for."""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lib.experiments.published import published_row
from lib.experiments.record import Record, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Thing = TypeVar("Thing")

_ASIDE = 0.011  # of the width of a figure

_WORDS = {"train": "training"}

CERTIFIED, ATTACKED, PAPER = "#0072b2", "#d55e00", "#333333"

_STYLE = {
    "figure.dpi": 84,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
}


def plot_radii(record: Record, table: Table) -> "Figure":
    """Certified accuracy against the radius, from the margin radii of the images, below that under attack.

    The true robust accuracy lies between the two curves. The paper's numbers are marked where it has this row. At the
    row's own radius (dotted) what is proved is marked left of the line, and what withstood an attack right of it.
    """
    figure, (axes,) = styled(1, height=4.2)
    edges, proved = _proved(table)
    width = 1.03 * max(edges[-1], table.radii.max(initial=record.eps))
    left, right = record.eps - _ASIDE * width, record.eps + _ASIDE * width
    axes.step(edges, proved, where="post", color=CERTIFIED, label="certified by margin (lower bound)")
    order = np.argsort(table.radii)
    survived = 100 * table.survived[:, order].mean(axis=0)
    axes.plot(table.radii[order], survived, "o-", color=ATTACKED, label="right after PGD (upper bound)")
    strong = record.percent(record.robust_strong)
    axes.plot(right, strong, "s", color=ATTACKED, label="also right after the stronger attack")
    if "interval" in record.certified:
        percent = record.percent(record.certified["interval"])
        axes.plot(left, percent, "D", color=CERTIFIED, label="certified by intervals")
    _mark_paper(axes, record, left, right)
    axes.axvline(record.eps, color="#999999", linewidth=0.9, linestyle=":")
    axes.set(xlim=(0, width))
    axes.set(ylim=(0, min(102, 1.5 * max(np.max(line.get_ydata()) for line in axes.lines[:-1]))))
    axes.set(xlabel="radius eps (pixels, full range = 1)", ylabel="accuracy (%)")
    axes.set_title(_title(record), loc="left")
    # clear of curves that begin high, and of those that begin low
    axes.legend(loc="lower left" if proved[0] > 60 else "upper right", frameon=False)
    return figure


def plot_history(record: Record) -> "Figure":
    """Training loss, training accuracy at the current p, and p itself, against the epoch; p = inf is shaded."""
    figure, panels = styled(3, height=5.6)
    epoch = _column(record, "epoch")
    p = _column(record, "p")
    panels[0].plot(epoch, _column(record, "loss"), color=CERTIFIED)
    panels[1].plot(epoch, 100 * _column(record, "accuracy"), color=CERTIFIED)
    panels[2].plot(epoch, np.where(np.isfinite(p), p, np.nan), color=CERTIFIED)
    panels[2].set_yscale("log", base=2)
    for axes, label in zip(panels, ("training loss", "training accuracy (%)", "exponent p"), strict=True):
        axes.set_ylabel(label)
        if not np.isfinite(p).all():
            axes.axvspan(epoch[~np.isfinite(p)][0] - 0.5, epoch[-1] + 0.5, color="#f0e6d2", zorder=0, label="p = inf")
    if not np.isfinite(p).all():
        panels[2].legend(loc="upper left", frameon=False)
    panels[0].set_title(_title(record), loc="left")
    panels[2].set_xlabel("epoch")
    return figure


def plot_runs(runs: "Mapping[str, tuple[Record, Table]]") -> "Figure":
    """Runs by name, beside each other: training accuracy against the epoch (at p = inf drawn solid), certified accuracy
    against the radius (line: by margin, diamond: by intervals), and the paper's number for a recipe at its own."""
    figure, (training, certified) = styled(2, height=6.4, shared=False)
    for (name, (record, table)), color in coloured(runs):
        epoch, accuracy = _column(record, "epoch"), 100 * _column(record, "accuracy")
        training.plot(epoch, accuracy, ".--", color=color)
        settled = np.where(np.isinf(_column(record, "p")), accuracy, np.nan)
        training.plot(epoch, settled, "o-", color=color, label=name)
        edges, proved = _proved(table)
        certified.step(edges, proved, where="post", color=color, label=name)
        certified.axvline(record.eps, color="#999999", linewidth=0.9, linestyle=":")
        if "interval" in record.certified:
            certified.plot(record.eps, record.percent(record.certified["interval"]), "D", color=color)
        paper = published_row(record.recipe.name, record.eps)
        if paper is not None and not np.isnan(paper["certified"]):
            certified.plot(record.eps, paper["certified"], "v", label=f"{name} ({_whose(record)})", **_hollow(color))
    if any("interval" in record.certified for record, _ in runs.values()):
        certified.plot([], [], "D", color="#999999", label="by intervals")
    training.set(xlabel="epoch (dashed: finite p, solid: p = inf)", ylabel="training accuracy (%)")
    certified.set(xlabel="radius eps (pixels, full range = 1)", ylabel="certified (%)", ylim=(0, None))
    first, _ = next(iter(runs.values()))
    training.set_title(_title(first).partition(", ")[2], loc="left")
    for axes in (training, certified):
        axes.legend(frameon=False)
    return figure


def plot_rows(frame: "pd.DataFrame", measure: str, panel: str, row: str) -> "Figure":
    """Rows of `report.table` at one budget, a panel for each value of column `panel`: the paper's `measure`, and ours.

    Ours are means over seeds, with their standard deviation where there are several; `row` names the marks of a panel.
    """
    parts = list(frame.groupby(panel, sort=False))
    figure, panels = styled(len(parts), height=2.4 * len(parts), shared=False)
    for axes, (name, part) in zip(panels, parts, strict=True):
        places = range(len(part))
        axes.plot(places, part[f"paper_{measure}"], "o", label="paper", **_hollow(PAPER))
        spread = part[f"{measure}_spread"].fillna(0)
        axes.errorbar(places, part[measure], spread, fmt="o", color=CERTIFIED, capsize=4, label="ours")
        axes.set(ylim=(0, None), ylabel=f"{_WORDS.get(measure, measure)} accuracy (%)")
        axes.set_title(name, loc="left")
        axes.set_xticks(places, part[row])
    panels[-1].set_xlabel(row)
    panels[-1].legend(loc="lower right", frameon=False)
    return figure


def plot_lines(frame: "pd.DataFrame", measure: str, line: str, along: str) -> "Figure":
    """Rows of `report.table` at one budget, ours above the paper's: their `measure` against the numbers in column
    `along`, a line for each value of column `line`.

    Ours are means over seeds, with their standard deviation where there are several. Two axes, since what differs
    within either is small beside what lies between them.
    """
    figure, (ours, paper) = styled(2, height=5.6)
    for (name, part), color in coloured(dict(list(frame.groupby(line, sort=False)))):
        spread = part[f"{measure}_spread"].fillna(0)
        ours.errorbar(part[along], part[measure], spread, fmt="o-", color=color, capsize=4, label=f"{name}, ours")
        paper.plot(
            part[along],
            part[f"paper_{measure}"],
            label=f"{name}, paper",
            **_hollow(color) | {"marker": "v", "linestyle": "-"},
        )
    for axes in (ours, paper):
        axes.set_ylabel(f"{_WORDS.get(measure, measure)} accuracy (%)")
        axes.legend(frameon=False)
    paper.set_xlabel(along)
    return figure


def plot_confusion(table: Table, names: "Sequence[str]") -> "Figure":
    """How often each class [K] was read as each, in percent of its images: labels downwards, predictions across."""
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (table.label, table.prediction), 1)
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axes,) = styled(1, height=5.0)
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(percent):
        if value >= 0.5:
            color = "white" if value > 50 else PAPER
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="prediction", ylabel="label (each row: percent of its images)")
    axes.grid(visible=False)
    return figure


def _proved(table: Table) -> tuple[Any, Any]:
    """Radii [R] at which the share of images certified by margin drops, 0 first, and the percent [R] beyond each."""
    edges = np.concatenate([[0.0], np.unique(table.radius[table.radius > 0])])
    beyond = len(table.radius) - np.searchsorted(np.sort(table.radius), edges, side="right")
    return edges, 100 * beyond / len(table.radius)


def styled(rows: int, height: float, shared: bool = True) -> tuple["Figure", "list[Axes]"]:
    """A styled figure that belongs to no window: shown by a notebook once, where its cell returns it."""
    import matplotlib.pyplot as plt

    with plt.rc_context(_STYLE):  # type: ignore[arg-type]
        figure, grid = plt.subplots(rows, 1, figsize=(7.2, height), sharex=shared, squeeze=False)
    plt.close(figure)
    return figure, list(grid[:, 0])


def coloured(things: "Mapping[str, Thing]") -> "list[tuple[tuple[str, Thing], str]]":
    """Up to three named things, each with a colour of its own; ValueError for more."""
    colors = (CERTIFIED, ATTACKED, PAPER)
    if len(things) > len(colors):
        raise ValueError(f"things to draw are {', '.join(things)}, expected at most {len(colors)}")
    return list(zip(things.items(), colors, strict=False))


def _mark_paper(axes: "Axes", record: Record, left: float, right: float) -> None:
    paper = published_row(record.recipe.name, record.eps)
    if paper is None:
        return
    for name, radius, marker in (("certified", left, "v"), ("robust", right, "^"), ("clean", 0.0, "s")):
        if np.isnan(paper[name]):
            continue
        axes.plot(radius, paper[name], marker, label=f"{name} ({_whose(record)})", **_hollow(PAPER))


def _whose(record: Record) -> str:
    return "paper, whole test set" if record.subset else "paper"


def _hollow(color: str) -> dict[str, Any]:
    """The look of a published number."""
    return {"color": color, "markerfacecolor": "none", "markersize": 8, "linestyle": "none", "clip_on": False}


def _title(record: Record) -> str:
    subset = f"\n{record.subset} †" if record.subset else ""
    return f"{record.recipe.name}, budget {record.setting}, seed {record.seed}{subset}"


def _column(record: Record, name: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return np.array([row[name] for row in record.history], dtype=np.float64)
