"""The l_p distance in float32 on CUDA, by the Triton kernels of `gpu_kernels.py`; functions as in `reference.py`.

Triton is imported on the first call. Every answer is deterministic: fixed tiles, no atomics, no autotuning.
"""

import functools
import importlib
import importlib.util
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.ops import powers

_TILE = 64
_CHUNK = 16
_WARPS = 8
# In the backward a thread holds all rows of four columns; the sums over tiles of outputs take at most so many entries.
_ROWS, _COLS, _COLUMN_WARPS = 16, 256, 2
_LARGEST_PARTS = 2**26
_LARGEST_DENSE_P = 16  # of those that are no powers of two
_LARGEST_NATURAL_P = 1024  # beyond it, squaring costs more than a fit
_LARGEST_FLOAT = torch.finfo(torch.float32).max


def lp_dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """y[b, o] = ||x_b - w_o||_p, [B, O], for x [B, I], w [O, I]; exactly max_i |fl(x_i - w_i)| at p = inf.

    Finite p: y = m (sum_i (|t_i| / m)^p)^(1/p), one pass for m = max_i |t_i| and one for the sum.

    Raises:
        ModuleNotFoundError: Triton is not installed.
    """
    peak = _peaks(x, w, with_index=False)[0]
    if math.isinf(p):
        return _crop(peak, x, w)
    # 1 / inf would make NaN of an infinite distance.
    scale = torch.where(peak.isinf(), 1.0, _reciprocal(peak))
    total = torch.empty_like(peak)
    sizes = *peak.shape, x.shape[1]
    _launch("power_sums", total, _columns(x), _columns(w), scale, total, *sizes, **_exponent(p, p), CHUNK=_CHUNK)
    # The root in float64: the backward raises y to the power p, and its error with it.
    y = peak * total.clamp_(min=1).double().pow_(1 / p)
    return _crop(y.float(), x, w)


def lp_dist_argmax(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The p = inf distance y [B, O] and the first index i (int32 [B, O]) with |x_bi - w_oi| = y_bo.

    Raises:
        ModuleNotFoundError: Triton is not installed.
    """
    y, index = _peaks(x, w, with_index=True)
    return _crop(y, x, w), _crop(index, x, w)


def lp_dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of sum_bo grad_bo y_bo in x [B, I] and in w [O, I]; one that is not needed comes back empty, [0].

    Finite p: dy/dx_i = sign(t_i) (|t_i| / y)^(p-1), sign(0) = 0, dy/dw = -dy/dx, both from one pass over all triples.
    p = inf: sign(t_i) at i = index, sign(0) = +1, by a sorted scatter.

    Raises:
        ModuleNotFoundError: Triton is not installed.
    """
    none = x.new_empty(0)
    if math.isinf(p):
        at = index.long()
        t = x.gather(1, at) - w.gather(1, at.T).T
        pull = torch.where(t.isnan(), t, torch.where(t < 0, -grad, grad))
        rows = torch.arange(len(x), device=x.device)[:, None]
        outputs = torch.arange(len(w), device=x.device)
        return (
            torch.zeros_like(x).index_put_((rows, at), pull, accumulate=True) if need_x else none,
            torch.zeros_like(w).index_put_((outputs, at), -pull, accumulate=True) if need_w else none,
        )
    # At p = 1 only the sign counts, and no ratio may underflow and lose it.
    scale = torch.ones_like(y) if p == 1 else _reciprocal(y)
    grad_x, grad_w = _gradients(x, w, grad, scale, p, need_x, need_w)
    return grad_x if need_x else none, grad_w if need_w else none


def linf_dist_bounds(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest p = inf distance over the box lower <= x <= upper, each [B, O]; exact for every output.

    The float32 operations of the p = inf forward in the same order, so executed distances stay between them.

    Raises:
        ModuleNotFoundError: Triton is not installed.
    """
    l_t, u_t, w_t = _columns(lower), _columns(upper), _columns(w)
    least = lower.new_zeros(l_t.shape[1], w_t.shape[1])
    greatest = torch.zeros_like(least)
    _launch("box_peaks", least, l_t, u_t, w_t, least, greatest, *least.shape, w.shape[1])
    return _crop(least, lower, w), _crop(greatest, lower, w)


def _peaks(x: Tensor, w: Tensor, *, with_index: bool) -> tuple[Tensor, Tensor]:
    x_t, w_t = _columns(x), _columns(w)
    y = x.new_zeros(x_t.shape[1], w_t.shape[1])
    index = torch.empty_like(y, dtype=torch.int32) if with_index else x.new_empty(0, dtype=torch.int32)
    _launch("peaks", y, x_t, w_t, y, index, *y.shape, x.shape[1], WITH_INDEX=with_index)
    return y, index


def _gradients(
    x: Tensor, w: Tensor, grad: Tensor, scale: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """sum_o u and -sum_b u for u[b, o, i] = grad sign(r) |r|^(p - 1), r = (x[b, i] - w[o, i]) scale[b, o]."""
    rows, cols = -len(w) % _ROWS, -x.shape[1] % _COLS
    wide, weights = F.pad(x, (0, cols)), F.pad(w, (0, cols, 0, rows))
    grad, scale = F.pad(grad, (0, rows)), F.pad(scale, (0, rows))
    grad_x, grad_w = torch.zeros_like(wide), torch.empty_like(weights)
    step = max(1, _LARGEST_PARTS // max(1, wide.numel())) * _ROWS
    for o in range(0, len(weights), step):
        part = slice(o, o + step)
        parts_x = wide.new_empty(len(weights[part]) // _ROWS if need_x else 0, *wide.shape)
        with torch.cuda.device_of(x):
            _kernels().gradient_sums[(weights[part].numel() // (_ROWS * _COLS),)](
                wide, weights[part], grad[:, part].contiguous(), scale[:, part].contiguous(), parts_x, grad_w[part],
                len(x), len(weights[part]), wide.shape[1], **_exponent(p, p - 1), NEED_X=need_x, NEED_W=need_w,
                ROWS=_ROWS, COLS=_COLS, num_warps=_COLUMN_WARPS, enable_fp_fusion=True,
            )  # fmt: skip
        grad_x += parts_x.sum(0)
    return grad_x[:, : x.shape[1]].contiguous(), grad_w[: len(w), : x.shape[1]].contiguous()


def _exponent(p: float, raised_to: float) -> dict[str, float | tuple[float, ...]]:
    """How the kernels raise: by squaring where that is short, else by the fit of powers.py, else by exp2 and log2."""
    whole = float(p).is_integer() and p <= _LARGEST_NATURAL_P
    natural = int(p) if whole and (p <= _LARGEST_DENSE_P or int(p).bit_count() == 1) else 0
    squarings, fit = -1, (0.0,) * (powers.DEGREE + 2)
    if not natural and raised_to > powers.LEAST_EXPONENT:
        squarings, coefficients = powers.fit(raised_to)
        fit = (*coefficients.tolist(), powers.least_ratio(raised_to) - 1)
    return {"p": float(p), "fit": fit, "natural_p": natural, "squarings": squarings}


def _reciprocal(y: Tensor) -> Tensor:
    return y.reciprocal().clamp_(max=_LARGEST_FLOAT)  # 1 / 0 is inf, and 0 inf would be NaN


def _columns(a: Tensor) -> Tensor:
    """The transpose, its rows padded with zeros to whole tiles: one feature of all samples is one contiguous vector."""
    return _whole_tiles(a.T)


def _whole_tiles(a: Tensor) -> Tensor:
    padding = -a.shape[1] % _TILE
    return F.pad(a, (0, padding)) if padding else a.contiguous()


def _crop(y: Tensor, x: Tensor, w: Tensor) -> Tensor:
    return y[: len(x), : len(w)].contiguous()


def _launch(kernel: str, out: Tensor, *arguments: Tensor | int, **constants: Any) -> None:
    """One program per tile of out, on the device of out."""
    with torch.cuda.device_of(out):
        getattr(_kernels(), kernel)[(out.numel() // _TILE**2,)](
            *arguments, **constants, TILE=_TILE, num_warps=_WARPS, enable_fp_fusion=True
        )


@functools.cache
def _kernels() -> Any:
    if importlib.util.find_spec("triton") is None:
        raise ModuleNotFoundError("lp_dist on CUDA needs Triton, which is not installed: run `pip install triton`")
    return importlib.import_module("lib.ops.gpu_kernels")
