"""The p = inf distance over shortlists of weights, float32 on the CPU, by Numba kernels."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lib.ops.compiled import one_at_a_time, ready
from lib.ops.shortlists import LANES, Shortlists


def linf_dist(x: Tensor, lists: Shortlists) -> tuple[Tensor, Tensor]:
    """x [B, I] through the layers of the lists -> (outputs of the last, [B, O], and a size, [B]).

    The output of a unit is (distance + plus) - minus, rounded in this order. No value on the way exceeds the size: the
    largest of max_i |v_i|, v being what the first layer takes, and max_o |y_o| + (max_o |plus_o| + max_o |minus_o|) of
    each layer.
    """
    y, sizes, _ = _passed(_kernels(x).forward, x, lists)
    return y, sizes


def linf_dist_of_pixels(x: Tensor, lists: Shortlists) -> tuple[Tensor, Tensor, bool]:
    """The same, and whether all of x lies in [0, 1]: elsewhere the rest is undefined. Leaves out what cannot count in
    the box that holds a large batch."""
    return _passed(_kernels(x).forward_of_pixels, x, lists)


def linf_dist_bounds(lower: Tensor, upper: Tensor, lists: Shortlists) -> tuple[Tensor, Tensor]:
    """Bounds [B, O] of the outputs of the last layer over the box lower <= x <= upper, which every layer hands on."""
    least, greatest, _ = _bounded(_kernels(lower).forward_bounds, lower, upper, lists)
    return least, greatest


def linf_dist_bounds_of_pixels(lower: Tensor, upper: Tensor, lists: Shortlists) -> tuple[Tensor, Tensor, bool]:
    """The same, and whether all boxes lie in [0, 1], as for `linf_dist_of_pixels`."""
    return _bounded(_kernels(lower).forward_bounds_of_pixels, lower, upper, lists)


@one_at_a_time
def _passed(forward: Callable[..., Any], x: Tensor, lists: Shortlists) -> tuple[Tensor, Tensor, Any]:
    rows = _rows(x)
    y, sizes = x.new_empty(len(rows), int(lists.widths[-1])), x.new_empty(len(rows))
    returned = forward(rows.numpy(), lists, y.numpy(), sizes.numpy(), torch.get_num_threads())
    return y[: len(x)], sizes[: len(x)], returned


@one_at_a_time
def _bounded(
    forward: Callable[..., Any], lower: Tensor, upper: Tensor, lists: Shortlists
) -> tuple[Tensor, Tensor, Any]:
    low, high = _rows(lower), _rows(upper)
    least, greatest = (lower.new_empty(len(low), int(lists.widths[-1])) for _ in range(2))
    arrays = low.numpy(), high.numpy(), lists, least.numpy(), greatest.numpy()
    returned = forward(*arrays, torch.get_num_threads())
    return least[: len(lower)], greatest[: len(lower)], returned


def _rows(x: Tensor) -> Tensor:
    """x [B, I] row by row in memory, its last row repeated up to the lanes of a tile."""
    return (x if len(x) >= LANES else x[torch.arange(LANES, device=x.device).clamp(max=len(x) - 1)]).contiguous()


def _kernels(x: Tensor) -> ModuleType:
    return ready("sparse", -(-len(x) // LANES))
