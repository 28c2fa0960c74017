"""Frames of `report.table` and `report.claims` as Markdown: the paper's numbers beside ours, the best in bold."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from lib.experiments.orders import ASSUMED_SPREAD, NONE, VERDICTS
from lib.experiments.summary import rounded, rounded_down, shown_eps, with_spread

_DAGGER = "†"
_PERCENT = (
    "Percent of the test images. Ours: mean ± standard deviation where there are several runs; certified by intervals "
    "from the box clipped to valid pixels, as in the released evaluation, and rounded down."
)
_CLEAN = (
    "Percent; ours: mean ± standard deviation where there are several runs. Clean is of the test images, and so is the "
    "difference. Training accuracy is the running one of the last epoch, on augmented images and in training mode."
)
_BEST = (
    "Bold: the best of the paper's, and the best of ours, for the same data and radius, runs on part of the data aside."
)
_PAPER = (
    "Paper: Table 1's l_inf-dist rows are medians of 8 runs; for `*/linf-dist-net-v2` and `*/sortnet` it is the "
    "follow-up that proposed them, for the latter the median of 8 released runs."
)
_FOLLOW_UPS = "Paper: its robust accuracies are after 100 steps of PGD."
_SECONDS = (
    "Seconds of training per epoch. Ours: the median epoch of a run at finite p, as 750 of the paper's 800 are (those "
    "at p = inf take less; IBP has no p), of another net on another machine: to be read beside its FLOPs (Table 1 has "
    "the paper's), and no comparison of speed."
)

_ORDERS = (
    "Points of accuracy, the row that the paper puts first minus the other: means over seeds, at the largest budget at "
    "which both were run on equal data. ±: the spread of such a difference between two single runs, from the spreads "
    f"of the rows (of one run alone: {ASSUMED_SPREAD:g} point); what does not exceed it is too close to say. "
    "With three runs each, rows that do not differ exceed it about one time in six{}."
)

# how a column that names a row is headed and printed
_NAMES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "row": ("Row", str),
    "layers": ("Layers", str),
    "init": ("Initialisation", str),
    "method": ("Method", str),
    "statistic": ("Statistic", str),
    "model": ("Net", str),
    "hardware": ("Hardware", str),
    "smooth_gradient": ("Smoothed", str),
    "identity_init": ("Identity map", str),
    "weight_decay": ("Decay", str),
    "flops": ("FLOPs: paper", lambda count: _flops(count)),
}
_DATA = {"CIFAR10": "CIFAR-10", "FashionMNIST": "Fashion-MNIST", "TinyImageNet": "Tiny ImageNet"}
_HEADS = {
    "train": "Training accuracy",
    "clean": "Clean",
    "robust": "Robust",
    "robust_strong": "Robust, stronger attack",
    "certified": "Certified",
    "certified_margin": "Certified by margin",
    "seconds": "Seconds",
}
_ACCURACIES = ("clean", "robust", "robust_strong", "certified")
_DIFFERENCE = "Ours \N{MINUS SIGN} paper"
# which text of a record says how a measure was made
_MADE_BY = {"robust": "attack", "robust_strong": "strong_attack", "certified": "certificate"}


def table_page(frame: pd.DataFrame) -> str:
    """A table for each data set and radius: what names a row, then each measure, the paper's number beside ours."""
    theirs = [name for name in _HEADS if f"paper_{name}" in frame]
    ours = _ACCURACIES if "certified" in theirs else tuple(theirs)
    compared = [name for name in ours if name != "seconds"]
    top = {name: best(frame, name) for name in [*compared, *(f"paper_{name}" for name in theirs)]}
    keys = [name for name in ("dataset", "eps") if name in frame]
    parts = [_part(part, ours, top) for _, part in frame.groupby(keys, sort=False)]
    note = _SECONDS if "seconds" in theirs else f"{_PERCENT if 'certified' in theirs else _CLEAN} {_BEST}"
    # the follow-ups alone say of how many runs a row is
    note += f" {_FOLLOW_UPS}" if "statistic" in frame else ""
    return "\n".join(parts) + _notes([note, *_how(frame, ours)], frame)


def claims_page(frame: pd.DataFrame) -> str:
    """One row per recipe and budget: its radius, the data and seeds, our accuracies, and the paper's certified one."""
    cells = []
    for _, row in frame.iterrows():
        known = {"Recipe": f"`{row['recipe']}`", "eps": shown_eps(row["eps"]), "Budget": _budget(row)}
        if row["runs"]:
            known |= {
                "Data": row["subset"] or f"{row['images']:,} test images",
                "Runs (seeds)": f"{row['runs']} ({row['seeds']})",
            }
            known |= {_HEADS[name]: with_spread(row, name) for name in (*_ACCURACIES, "certified_margin")}
        cells.append(known | _beside_the_paper(row) | ({"Device": row["device"]} if row["runs"] else {}))
    return _grid(cells) + _notes([f"{_PERCENT} {_PAPER}", *_how(frame, _ACCURACIES)], frame)


def orders_page(frame: pd.DataFrame) -> str:
    """How many orders hold; then for each comparison of the paper its difference, ours with its spread, the verdict."""
    cells = []
    for _, row in frame.iterrows():
        known = {"In": row["place"], "The paper's claim": row["claim"], "Measure": _HEADS[row["measure"]]}
        known["Points: paper"] = _signed(row["paper"], rounded)
        if row["budget"]:
            known["Points: ours"] = f"{_signed(row['ours'], rounded)} ± {rounded(row['spread'])}"
            known["Our runs"] = f"{_budget(row)}, {' and '.join(map(str, row['runs']))}"
        cells.append(known | {"The order here": row["verdict"]})
    counts = ", ".join(f"{word} {(frame['verdict'] == word).sum()}" for word in VERDICTS)
    judged = (frame["verdict"] != NONE).sum()
    note = _ORDERS.format(f", which of {judged} verdicts here would be {judged / 6:.0f}" if judged else "")
    return f"**Of {len(frame)} orders: {counts}.**\n\n{_grid(cells)}" + _notes([note], frame)


def settings_page(frame: pd.DataFrame) -> str:
    """The rows of `settings` as they are."""
    return _grid(frame.to_dict("records"))


def overview_page(frame: pd.DataFrame) -> str:
    """One row for each recipe whose certified accuracy was published, at its largest budget; Table 3 left out."""
    published = frame[frame["paper_certified"].notna() & ~frame["recipe"].str.contains("/ablation-")]
    largest, cells = published.groupby("recipe", sort=False).tail(1), []
    for _, row in largest.iterrows():
        known = {"Recipe": f"`{row['recipe']}`", "eps": shown_eps(row["eps"]), "Budget": _budget(row)}
        if row["runs"]:
            known |= {_HEADS[name]: with_spread(row, name) for name in ("clean", "robust_strong", "certified")}
        cells.append(known | _beside_the_paper(row))
    named = largest["subset"].where(largest["subset"] == "", "`" + largest["recipe"] + "` on " + largest["subset"])
    return _grid(cells) + _notes([f"{_PERCENT} {_PAPER}"], largest.assign(subset=named))


def best(frame: pd.DataFrame, column: str) -> set[Any]:
    """The rows of `frame` with the best value of a column among those of the same data and radius.

    Ours on part of the data take no part, and one candidate alone is the best of nothing. Less is better for seconds.
    """
    alike = [name for name in ("dataset", "eps") if name in frame]
    if "row" in frame:  # Table 3 has variants of two methods; elsewhere methods are the rivals
        alike.append("method")
    whole = column.startswith("paper_") | (frame["subset"] == "")
    winners: set[Any] = set()
    for _, rivals in frame[frame[column].notna() & whole].groupby(alike, sort=False):
        values = rivals[column]
        if len(rivals) > 1:
            winners |= set(rivals.index[values == (values.min() if column.endswith("seconds") else values.max())])
    return winners


def _part(frame: pd.DataFrame, ours: Sequence[str], top: dict[str, set[Any]]) -> str:
    """The rows of one data set and radius, under its name."""
    first = frame.iloc[0]
    data = _DATA.get(first["dataset"], first["dataset"])
    title = f"{data}, eps = {first['eps']}" if "eps" in frame else data
    return f"**{title}**\n\n{_grid([_compared(index, row, ours, top) for index, row in frame.iterrows()])}"


def _compared(index: Any, row: Any, ours: Sequence[str], top: dict[str, set[Any]]) -> dict[str, str]:
    """The cells of a row: its names, our run, then each measure of the paper's and of ours."""
    cells = {head: show(row[name]) for name, (head, show) in _NAMES.items() if name in row}
    if row.get("reference"):
        cells["Method"] += f" ({row['reference']})"
    if row["runs"] and ("flops" in row or "seconds" in ours):
        cells["FLOPs: ours"] = _flops(row["our_flops"])
    if row["recipe"]:
        cells["Our runs"] = _budget(row) + (f", {_runs(row['runs'])}" if row["runs"] else "")
    for name, head in _HEADS.items():
        for column, whose in ((f"paper_{name}", "paper"), (name, "ours")):
            if column in row and (whose == "paper" or (row["runs"] and name in ours)):
                text = with_spread(row, column)
                cells[f"{head}: {whose}"] = f"**{text}**" if index in top.get(column, ()) else text
    if row["runs"] and "seconds" not in ours:
        cells[_DIFFERENCE] = _signed(row["difference"], rounded_down if "paper_certified" in row else rounded)
    return cells


def _budget(row: Any) -> str:
    if not row["runs"]:
        return "no run yet"
    return f"{row['budget']} {_DAGGER}" if row["subset"] else str(row["budget"])


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _beside_the_paper(row: Any) -> dict[str, str]:
    cells = {"Certified: paper": rounded_down(row["paper_certified"])}
    return cells | ({_DIFFERENCE: _signed(row["difference"], rounded_down)} if row["runs"] else {})


def _signed(difference: float, shown: Callable[[float], str]) -> str:
    return "" if math.isnan(difference) else shown(difference).replace("-", "\N{MINUS SIGN}")


def _flops(count: float) -> str:
    return f"{count / 1e9:.3g}G" if count >= 1e9 else f"{count / 1e6:.3g}M"


def _how(frame: pd.DataFrame, measures: Sequence[str]) -> list[str]:
    """How ours were attacked and certified, in the records' own words."""
    made = {
        name: "; ".join(dict.fromkeys(filter(None, frame[_MADE_BY[name]]))) for name in measures if name in _MADE_BY
    }
    return [f"{_HEADS[name]}: {words}." for name, words in made.items() if words]


def _grid(cells: Sequence[dict[str, str]]) -> str:
    # the fullest row has all columns in their order
    columns = list(dict.fromkeys(name for row in sorted(cells, key=len, reverse=True) for name in row))
    lines = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _notes(notes: Sequence[str], frame: pd.DataFrame) -> str:
    subsets = "; ".join(dict.fromkeys(text for text in frame["subset"] if text))
    footnote = f"{_DAGGER} Made on part of the data, so not comparable with the paper's: {subsets}."
    return "\n" + "\n\n".join([*notes, footnote] if subsets else notes) + "\n"
