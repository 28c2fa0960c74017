"""How fast the GPU kernels could be at most: the instructions that `python -m bench.gpu_code` counted, as a table.

A limit and no measurement: it holds if no load has to be waited for, and where the registers of a program leave room
for few others beside it, some will be.
"""

import json
import math
from pathlib import Path

import pandas as pd

from lib.experiments.speed import FORWARD

BACKWARD, SUMS = "backward", f"{FORWARD}, after the maxima"
UNITS = ("multiply", "compare", "memory", "other")
LIMIT = "at most (G triples/s)"

# Of an H100 or H200, at the clock of the data sheet: billions of instructions a second, one lane each.
_ISSUED = 132 * 128 * 1.98
# Comparisons, of which a maximum is one, are served by half as many lanes.
_COMPARING = 2


def limit_table(path: str | Path) -> pd.DataFrame:
    """Instructions a triple in the innermost loop of each kernel that has one: a row per (what, p), a column per unit.

    `LIMIT` is what the rate of issue, or that of comparisons, allows.
    """
    found = json.loads(Path(path).read_text(encoding="utf-8"))["kernels"]
    rows = {
        (kernel["what"], float(kernel["p"])): kernel["instructions"] for kernel in found if "instructions" in kernel
    }
    table = pd.DataFrame(rows).T.rename_axis(["what", "p"])
    table[LIMIT] = _ISSUED / table["all"].clip(lower=_COMPARING * table["compare"])
    return table


def least_seconds(table: pd.DataFrame, p: float, triples: int) -> float:
    """For so many triples forward, where needed the maxima and then the sums, and backward for finite p."""
    forward = [(FORWARD, p)] if (FORWARD, p) in table.index else [(FORWARD, math.inf), (SUMS, p)]
    passes = forward if math.isinf(p) else [*forward, (BACKWARD, p)]
    return sum(triples / 1e9 / float(table.loc[each, LIMIT]) for each in passes)
