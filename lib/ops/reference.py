"""The l_p distance, its gradients and its interval bounds in plain PyTorch: the oracle of the kernels.

Shapes: x [B, I], w [O, I], outputs [B, O]. Every dtype and device; half precision is computed in float32 and rounded
once at the end. Work goes tile by tile over the (sample, output) pairs, so no [B, O, I] tensor is ever whole in memory.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Differences at a time: what a cache holds, and on other devices what keeps thousands of threads busy.
_CPU_TILE, _TILE = 1 << 18, 1 << 24


def lp_dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """y[b, o] = ||x_b - w_o||_p for 1 <= p <= inf (Eq. 2 at p = inf).

    Finite p: y = m (sum_i (|t_i| / m)^p)^(1/p) with t = x - w and m = max_i |t_i|; sum_i |t_i|^p itself overflows.
    """
    x_wide, w_wide = _widen(x), _widen(w)
    y = x_wide.new_empty(len(x), len(w))
    for rows, cols in _tiles(x, w):
        t = _abs_difference(x_wide[rows], w_wide[cols])
        largest = t.amax(-1)
        y[rows, cols] = largest if math.isinf(p) else _rescaled_norm(t, largest, p)
    return y.to(x.dtype)


def lp_dist_argmax(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The p = inf distance y [B, O] and the first index i (int32 [B, O]) with |x_bi - w_oi| = y_bo."""
    x_wide, w_wide = _widen(x), _widen(w)
    y = x_wide.new_empty(len(x), len(w))
    index = torch.empty_like(y, dtype=torch.int32)
    for rows, cols in _tiles(x, w):
        t = _abs_difference(x_wide[rows], w_wide[cols])
        y[rows, cols] = t.amax(-1)
        index[rows, cols] = t.argmax(-1).int()
    return y.to(x.dtype), index


def lp_dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of sum_bo grad_bo y_bo in x [B, I] and in w [O, I]; one that is not needed comes back empty, [0].

    Finite p: dy/dx_i = sign(t_i) (|t_i| / y)^(p-1), sign(0) = 0, all 0 where y = 0. p = inf: dy/dx_i = sign(t_i) at
    i = index and 0 elsewhere, sign(0) = +1. Always dy/dw = -dy/dx. `index` is read at p = inf only.
    """
    wide = _widen(grad), _widen(x), _widen(w)
    if y.dtype is not wide[0].dtype and not math.isinf(p):
        y = lp_dist(*wide[1:], p)  # a ratio to y in half precision is raised to a power
    grad_x, grad_w = _backward_inf(*wide, index) if math.isinf(p) else _backward_finite(*wide, y, p)
    return (
        grad_x.to(x.dtype) if need_x else x.new_empty(0),
        grad_w.to(w.dtype) if need_w else w.new_empty(0),
    )


def linf_dist_bounds(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest p = inf distance over the box lower <= x <= upper, each [B, O]; exact for every output.

    greatest = max_i max(|l_i - w_i|, |u_i - w_i|), least = max_i max(l_i - w_i, w_i - u_i, 0). Only differences, of
    which x - w rises and w - x falls with x, and maxima, monotone after rounding too: executed distances stay between
    executed bounds.
    """
    low, high, w_wide = _widen(lower), _widen(upper), _widen(w)
    least, greatest = low.new_empty(len(low), len(w)), low.new_empty(len(low), len(w))
    for rows, cols in _tiles(lower, w):
        from_low = low[rows, None] - w_wide[cols]
        from_high = high[rows, None] - w_wide[cols]
        least[rows, cols] = torch.maximum(from_low, -from_high).amax(-1).clamp(min=0)
        greatest[rows, cols] = torch.maximum(from_low.abs(), from_high.abs()).amax(-1)
    return least.to(lower.dtype), greatest.to(lower.dtype)


def _widen(a: Tensor) -> Tensor:
    return a.float() if a.dtype in (torch.float16, torch.bfloat16) else a


def _tiles(x: Tensor, w: Tensor) -> Iterator[tuple[slice, slice]]:
    size, features = _CPU_TILE if x.device.type == "cpu" else _TILE, max(1, x.shape[1])
    rows = max(1, min(len(x), size // features))
    cols = max(1, size // (rows * features))
    for row in range(0, len(x), rows):
        for col in range(0, len(w), cols):
            yield slice(row, row + rows), slice(col, col + cols)


def _abs_difference(x: Tensor, w: Tensor) -> Tensor:
    return (x[:, None] - w).abs_()


def _rescaled_norm(t: Tensor, largest: Tensor, p: float) -> Tensor:
    # Dividing by 0 or inf would make NaN of the answers 0 and inf.
    scale = torch.where((largest == 0) | largest.isinf(), 1, largest)
    return largest * (t / scale[..., None]).pow_(p).sum(-1).pow_(1 / p)


def _sign(t: Tensor) -> Tensor:
    # torch.sign(nan) is 0, which would hide a bad input.
    return torch.where(t.isnan(), t, t.sign())


def _backward_inf(grad: Tensor, x: Tensor, w: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    at = index.long()
    t = x.gather(1, at) - w.gather(1, at.T).T
    pull = grad * torch.where(t == 0, 1, _sign(t))
    return torch.zeros_like(x).scatter_add_(1, at, pull), torch.zeros_like(w).scatter_add_(1, at.T, -pull.T)


def _backward_finite(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    grad_x, grad_w = torch.zeros_like(x), torch.zeros_like(w)
    for rows, cols in _tiles(x, w):
        t = x[rows, None] - w[cols]
        size, norm = t.abs(), y[rows, cols, None]
        # |t| = y covers 0 / 0 and inf / inf; the clamp covers a y that was rounded down.
        ratio = torch.where(size == norm, 1, size / norm).clamp_(max=1)
        pull = grad[rows, cols, None] * _sign(t) * ratio.pow_(p - 1)
        grad_x[rows] += pull.sum(1)
        grad_w[cols] -= pull.sum(0)
    return grad_x, grad_w
