"""Frames of `report.table` and `report.claims` as Markdown pages; the best are found here, and never on subsets."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from lib.experiments.summary import rounded_down, shown_eps, with_spread

_DAGGER = "†"
_FOOTNOTE = f"{_DAGGER} Made on part of the data, as stated: not comparable with the paper's number."
_PERCENT = (
    "Percent of the test images. Ours: mean ± standard deviation where there are several runs; certified by intervals "
    "from the box clipped to valid pixels, as in the released evaluation, and rounded down."
)
_CLEAN = "Percent of the test images. Ours: mean ± standard deviation where there are several runs."
_BEST = (
    "Bold: the best of the paper's, and the best of ours, for the same data and radius, runs on part of the data aside."
)
_PAPER = (
    "Paper: Table 1's l_inf-dist rows are medians of 8 runs; for `*/linf-dist-net-v2` and `*/sortnet` it is the "
    "follow-up that proposed them."
)
_SECONDS = (
    "Seconds of training per epoch. Ours: mean over the epochs of a run, of another net on another machine: to be read "
    "beside its FLOPs (Table 1 has the paper's), and no comparison of speed."
)

# how a column that names a row is headed and printed
_NAMES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "row": ("Row", str),
    "dataset": ("Data", str),
    "eps": ("eps", str),
    "layers": ("Layers", str),
    "init": ("Initialisation", str),
    "method": ("Method", str),
    "statistic": ("Statistic", str),
    "model": ("Net", str),
    "hardware": ("Hardware", str),
    "smooth_gradient": ("Smoothed", str),
    "identity_init": ("Identity map", str),
    "weight_decay": ("Decay", str),
    "flops": ("FLOPs", lambda count: _flops(count)),
}
_HEADS = {
    "train": "train",
    "clean": "clean",
    "robust": "robust",
    "robust_strong": "robust, stronger attack",
    "certified": "certified",
    "certified_margin": "certified by margin",
    "seconds": "seconds",
}
_ACCURACIES = ["clean", "robust", "robust_strong", "certified", "certified_margin"]
# which text of a record says how a measure was made
_MADE_BY = {"robust": "attack", "robust_strong": "strong_attack", "certified": "certificate"}


def table_page(frame: pd.DataFrame) -> str:
    """One table: what names each row, the paper's numbers, ours and how they were made; the best of each in bold."""
    theirs = [name for name in _HEADS if f"paper_{name}" in frame]
    ours = _ACCURACIES if "certified" in theirs else theirs
    compared = [name for name in ours if name != "seconds"]
    top = {name: best(frame, name) for name in [*compared, *(f"paper_{name}" for name in theirs)]}
    cells = []
    for index, row in frame.iterrows():
        known = {head: show(row[name]) for name, (head, show) in _NAMES.items() if name in frame}
        if row.get("reference"):
            known["Method"] += f" ({row['reference']})"
        for name in theirs:
            known[f"Paper: {_HEADS[name]}"] = _bold(
                with_spread(row, f"paper_{name}"), index in top.get(f"paper_{name}", ())
            )
        cells.append(known | _ours(index, row, ours, top))
    note = _SECONDS if "seconds" in theirs else f"{_PERCENT if 'certified' in theirs else _CLEAN} {_BEST}"
    return _render(cells, [note, *_how(frame, ours)], frame)


def claims_page(frame: pd.DataFrame) -> str:
    """One row per recipe and budget: its radius, the paper's certified accuracy, and ours."""
    cells = []
    for index, row in frame.iterrows():
        known = {"Recipe": f"`{row['recipe']}`", "eps": shown_eps(row["eps"])}
        known["Paper: certified"] = rounded_down(row["paper_certified"])
        cells.append(known | _ours(index, row, _ACCURACIES, {}))
    return _render(cells, [f"{_PERCENT} {_PAPER}", *_how(frame, _ACCURACIES)], frame)


def overview_page(frame: pd.DataFrame) -> str:
    """One row per recipe, at its largest budget: the paper's certified accuracy, and ours; Tables 3 and 7 left out."""
    largest = frame[~frame["recipe"].str.contains("/(?:ablation|depth)-")].groupby("recipe", sort=False).tail(1)
    shown = ("Budget", "Ours: clean", "Ours: certified", "Ours - paper: certified", "Test images")
    cells = []
    for index, row in largest.iterrows():
        ours = _ours(index, row, _ACCURACIES, {})
        known = {"Recipe": f"`{row['recipe']}`", "eps": shown_eps(row["eps"])}
        known["Paper: certified"] = rounded_down(row["paper_certified"])
        cells.append(known | {name: ours[name] for name in shown if name in ours})
    return _render(cells, [f"{_PERCENT} {_PAPER}"], largest)


def best(frame: pd.DataFrame, column: str) -> set[Any]:
    """The rows of `frame` with the best value of a column among those of the same data and radius.

    Ours on part of the data take no part, and one candidate alone is the best of nothing. Less is better for seconds.
    """
    alike = [name for name in ("dataset", "eps", "method") if name in frame and (name != "method" or "row" in frame)]
    whole = column.startswith("paper_") | (frame["subset"] == "")
    winners: set[Any] = set()
    for _, rivals in frame[frame[column].notna() & whole].groupby(alike, sort=False):
        values = rivals[column]
        if len(rivals) > 1:
            winners |= set(rivals.index[values == (values.min() if column.endswith("seconds") else values.max())])
    return winners


def _ours(index: Any, row: Any, measures: list[str], top: dict[str, set[Any]]) -> dict[str, str]:
    """The cells of our runs of one recipe at one budget."""
    if not row["runs"]:
        return {"Budget": "no run yet" if row["recipe"] else "not remade here"}
    cells = {
        "Budget": f"{row['budget']} {_DAGGER} ({row['subset']})" if row["subset"] else row["budget"],
        "Runs (seeds)": f"{row['runs']} ({row['seeds']})",
    }
    for name in measures:
        cells[f"Ours: {_HEADS[name]}"] = _bold(with_spread(row, name), index in top.get(name, ()))
    if "seconds" in measures:
        cells["Ours: FLOPs"] = _flops(row["our_flops"])
    else:
        compared = "certified" if "certified" in measures else "clean"
        cells[f"Ours - paper: {compared}"] = rounded_down(row["difference"])
        cells["Test images"] = f"{row['images']:,}"
    return cells | {"Device": row["device"]}


def _bold(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best else text


def _flops(count: float) -> str:
    return f"{count / 1e9:.3g}G" if count >= 1e9 else f"{count / 1e6:.3g}M"


def _how(frame: pd.DataFrame, measures: list[str]) -> list[str]:
    """How ours were attacked and certified, in the records' own words."""
    made = {
        name: "; ".join(dict.fromkeys(filter(None, frame[_MADE_BY[name]]))) for name in measures if name in _MADE_BY
    }
    return [f"{_HEADS[name].capitalize()}: {words}." for name, words in made.items() if words]


def _render(cells: list[dict[str, str]], notes: list[str], frame: pd.DataFrame) -> str:
    columns = list(dict.fromkeys(name for row in cells for name in row))
    lines = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in cells)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    paragraphs = [*notes, *([_FOOTNOTE] if frame["subset"].any() else [])]
    return text + "\n" + "\n\n".join(paragraphs) + "\n"
