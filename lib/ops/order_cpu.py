"""The largest distances in float32 on the CPU, by Numba kernels; functions as in `order_reference.py`.

Inputs that are not finite, and more order statistics than the kernels keep, go to the reference.
"""

import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from lib.ops import order_reference
from lib.ops.compiled import one_at_a_time, ready
from lib.ops.cpu_layout import flat, grid, threads
from lib.ops.cpu_shapes import BLOCK, MOST_LARGEST, WIDTH, WORD
from lib.ops.padding import padded


def largest(lower: Tensor, upper: Tensor, w: Tensor, count: int, *, least: bool) -> Tensor:
    """The `count` largest distances [K, B, O] in falling order, each at its least or its greatest over the box."""
    if _in_range(count, lower, upper, w):
        return _largest(lower, upper, w, count, least)
    return order_reference.largest(lower, upper, w, count, least=least)


def largest_with_places(x: Tensor, w: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest distances [K, B, O] in falling order, and their inputs [B, O, K], int32: of equal ones the
    first."""
    if _in_range(count, x, w):
        values = _largest(x, x, w, count, least=True)
        return values, _places(x, w, values)
    return order_reference.largest_with_places(x, w, count)


def gradients(
    grad: Tensor, x: Tensor, w: Tensor, c: Sequence[float], places: Tensor, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """As `order_reference.gradients`."""
    if not _in_range(len(c), x, w):
        return order_reference.gradients(grad, x, w, c, places, need_x, need_w)
    return (
        _gradient(grad, x, w, c, places) if need_x else x.new_empty(0),
        # a distance knows no difference between x and w: that of w with all roles exchanged
        _gradient(grad.T, w, x, c, places.transpose(0, 1)) if need_w else w.new_empty(0),
    )


def _in_range(count: int, *inputs: Tensor) -> bool:
    if not all(t.numel() for t in inputs):
        return False
    # maxima in the kernels would lose a NaN
    return count <= MOST_LARGEST and all(math.isfinite(end) for t in inputs for end in t.aminmax())


@one_at_a_time
def _largest(lower: Tensor, upper: Tensor, w: Tensor, count: int, least: bool) -> Tensor:
    low, weights = padded(lower, 1, BLOCK), padded(w, 1, BLOCK)
    high = low if upper is lower else padded(upper, 1, BLOCK)
    tasks = grid(low, weights)
    values = lower.new_empty(count, len(lower), tasks.panels * WIDTH)
    _kernels(lower, w).largest(*flat(low, high, weights), least, count, *flat(values), tasks)
    return values[:, :, : len(w)]


@one_at_a_time
def _places(x: Tensor, w: Tensor, values: Tensor) -> Tensor:
    places = x.new_empty(len(x), len(w), len(values), dtype=torch.int32)
    x, w = padded(x, 1, WORD, math.nan), padded(w, 1, WORD)
    _kernels(x, w).find(x.numpy(), w.numpy(), values.contiguous().numpy(), places.numpy())
    return places


@one_at_a_time
def _gradient(grad: Tensor, x: Tensor, w: Tensor, c: Sequence[float], places: Tensor) -> Tensor:
    gx = torch.zeros_like(x, memory_format=torch.contiguous_format)
    inputs = (t.contiguous().numpy() for t in (grad, x, w))
    _kernels(x, w).gradient(*inputs, np.array(c, np.float32), places.contiguous().numpy(), gx.numpy())
    return gx


def _kernels(x: Tensor, w: Tensor) -> ModuleType:
    return ready("order", threads(len(x) * w.numel()))
