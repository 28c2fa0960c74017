"""The largest distances in float32 on CUDA, by a Triton kernel; functions as in `order_reference.py`.

More order statistics than a thread has registers for go to the reference.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.ops import order_reference
from lib.ops.gpu_launch import launch
from lib.ops.gpu_scatter import scattered
from lib.ops.padding import padded

# A thread of a program has four pairs, and of each the MOST largest distances and where they are in its registers.
ROWS, COLS, WARPS, MOST = 16, 32, 4, 10


def largest(lower: Tensor, upper: Tensor, w: Tensor, count: int, *, least: bool) -> Tensor:
    """The `count` largest distances [K, B, O] in falling order, each at its least or its greatest over the box."""
    if count > MOST:
        return order_reference.largest(lower, upper, w, count, least=least)
    low, weights = _by_feature(lower, ROWS), _by_feature(w, COLS)
    high = low if upper is lower else _by_feature(upper, ROWS)
    values = lower.new_empty(count, low.shape[1], weights.shape[1])
    none = torch.empty(0, dtype=torch.int32, device=w.device)
    _launch(low, high, weights, values, none, least=least, with_places=False)
    return values[:, : len(lower), : len(w)]


def largest_with_places(x: Tensor, w: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest distances [K, B, O] in falling order, and their inputs [B, O, K], int32: of equal ones the
    first."""
    if count > MOST:
        return order_reference.largest_with_places(x, w, count)
    points, weights = _by_feature(x, ROWS), _by_feature(w, COLS)
    values = x.new_empty(count, points.shape[1], weights.shape[1])
    places = torch.empty(*values.shape[1:], count, dtype=torch.int32, device=w.device)
    _launch(points, points, weights, values, places, least=True, with_places=True)
    return values[:, : len(x), : len(w)], places[: len(x), : len(w)].contiguous()


def gradients(
    grad: Tensor, x: Tensor, w: Tensor, c: Sequence[float], places: Tensor, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """As `order_reference.gradients`; deterministic, and NaN where grad is infinite."""
    return scattered(order_reference.pulls(grad, x, w, c, places.long()), places, x, w, need_x, need_w)


def _by_feature(a: Tensor, rows: int) -> Tensor:
    """[rows, I] as [I, rows], whole tiles of them."""
    return padded(a, rows, 1).T.contiguous()


def _launch(
    low: Tensor, high: Tensor, w: Tensor, values: Tensor, places: Tensor, *, least: bool, with_places: bool
) -> None:
    """One program for each tile of values [K, B, O]."""
    count, samples, outputs = values.shape
    launch(
        "largest", values, samples * outputs // (ROWS * COLS), low, high, w, values, places, samples, outputs, len(w),
        LEAST=least, POINT=low is high, WITH_PLACES=with_places, COUNT=count, ROWS=ROWS, COLS=COLS, num_warps=WARPS,
        enable_fp_fusion=True,
    )  # fmt: skip
