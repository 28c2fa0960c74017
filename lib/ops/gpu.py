"""The l_p distance in float32 on CUDA, by the Triton kernels of `kernels/gpu.py`; functions as in `reference.py`.

Triton is imported on the first call. Every answer is deterministic: fixed tiles, no autotuning, no atomics but those of
integers, whose sums do not depend on the order.
"""

import math
from typing import Any

import torch
from torch import Tensor

from lib.ops import gpu_range, powers
from lib.ops.gpu_launch import launch
from lib.ops.gpu_layout import (
    BACKWARD_WARPS,
    LEAST_PROGRAMS,
    ROWS,
    SPAN,
    WARPS,
    columns_of,
    sliced,
    tile_of,
    tiles_with,
)
from lib.ops.gpu_range import FAR
from lib.ops.gpu_scatter import scattered
from lib.ops.padding import cropped, padded

# Terms that are added one by one, off by at most 5 2^-24 of their sum, before it joins the compensated total.
CHUNK = 16
# With so many samples in turn, and so many sums over tiles of outputs (256 MiB), a launch has 1,024 programs: an H200
# has room for about as many.
SAMPLES, _LARGEST_PARTS = 512, 2**26
_LARGEST_DENSE_P = 16  # of those that are no powers of two: up to it six products do, fewer than a fit takes
_LARGEST_NATURAL_P = 1024  # beyond it, squaring costs more than a fit
_LARGEST_P_AT_ONCE = 32  # up to it sums have room for distances that are a factor of 50 apart, at 16 one of 5,000
_LOST = 2.0**-100  # a sum of less than so much a term is not 2^26 times what underflow may have taken from it
PAIRS = 256  # of a program that looks at each pair alone


def lp_dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """y[b, o] = ||x_b - w_o||_p, [B, O], for x [B, I], w [O, I]; exactly max_i |fl(x_i - w_i)| at p = inf.

    Natural p up to 16, and 32: y = (sum_i (s |t_i|)^p)^(1/p) / s in one pass, s a power of two that is the same for all
    pairs. Other p, and pairs whose sum leaves the range of float32: y = m (sum_i (|t_i| / m)^p)^(1/p), one pass for
    m = max_i |t_i| and one for the sum.

    Raises:
        ModuleNotFoundError: Triton is not installed.
        RuntimeError: Triton finds no C compiler.
    """
    x_t, w_t = sliced(x, w)
    if math.isinf(p):
        return cropped(_whole(_peaks(x_t, w_t)[0]), len(x), len(w))
    exponent = gpu_range.exponent(x, w)
    if at_once(p):
        total, unit = _sums_at_once(x_t, w_t, p, exponent, len(x), len(w))
    else:
        total, unit = _sums_of_ratios(x_t, w_t, p, exponent)
    # The root in float64: the backward raises y to the power p, and its error with it.
    return cropped(total.double().pow_(1 / p).mul_(unit).float(), len(x), len(w))


def lp_dist_argmax(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The p = inf distance y [B, O] and the first index i (int32 [B, O]) with |x_bi - w_oi| = y_bo.

    Raises:
        ModuleNotFoundError: Triton is not installed.
        RuntimeError: Triton finds no C compiler.
    """
    x_t, w_t = sliced(x, w)
    y, index = (cropped(a, len(x), len(w)) for a in _first_of(*_peaks(x_t, w_t, with_span=True), len(x_t)))
    launch(
        "first_in_span", y, -(-y.numel() // PAIRS), x, w, y, index, y.numel(), *w.shape, SPAN=SPAN, PAIRS=PAIRS,
        num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return y, index


def lp_dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of sum_bo grad_bo y_bo in x [B, I] and in w [O, I]; one that is not needed comes back empty, [0].

    Finite p: dy/dx_i = sign(t_i) (|t_i| / y)^(p-1), sign(0) = 0, dy/dw = -dy/dx, both from one pass over all triples.
    p = inf: sign(t_i) at i = index, sign(0) = +1, summed by `scattered`; an infinite grad gives NaN.

    Raises:
        ModuleNotFoundError: Triton is not installed.
        RuntimeError: Triton finds no C compiler.
    """
    if math.isinf(p):
        at = index.long()
        t = x.gather(1, at) - w.gather(1, at.T).T
        pull = torch.where(t.isnan(), t, torch.where(t < 0, -grad, grad))
        return scattered(pull[..., None], index[..., None], x, w, need_x, need_w)
    x, w, scale = _ratios_of(x, w, y, p)
    if _by_output(len(x), len(w), x.shape[1], need_x, need_w):
        grad_x, grad_w = _gradients(x, w, grad, scale, p, need_x, need_w)
    else:  # the sums are odd in x - w, so x and w may change places
        grad_w, grad_x = _gradients(w, x, grad.T, scale.T, p, need_w, need_x)
    return grad_x if need_x else x.new_empty(0), grad_w if need_w else w.new_empty(0)


def linf_dist_bounds(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest p = inf distance over the box lower <= x <= upper, each [B, O]; exact for every output.

    The float32 operations of the p = inf forward in the same order, so executed distances stay between them.

    Raises:
        ModuleNotFoundError: Triton is not installed.
        RuntimeError: Triton finds no C compiler.
    """
    l_t, u_t, w_t = sliced(lower, upper, w)
    least = lower.new_zeros(*l_t.shape[1:], w_t.shape[2])
    greatest = torch.zeros_like(least)
    _launch("box_peaks", least, l_t, u_t, w_t, least, greatest)
    return cropped(_whole(least), len(lower), len(w)), cropped(_whole(greatest), len(lower), len(w))


def _sums_at_once(
    x_t: Tensor, w_t: Tensor, p: float, exponent: Tensor, samples: int, outputs: int
) -> tuple[Tensor, Tensor]:
    """Sums and units with y = unit sum^(1/p), for natural p, of whole tiles: of one unit, where that is in range."""
    features, slices, _ = x_t.shape
    factor = gpu_range.sum_factor(exponent, features * slices, p)
    total = _sums(x_t, w_t, p, factor)
    lost = ~((total >= features * slices * _LOST) & (total < math.inf))
    # what pads is at distance 0 of what pads, and not wanted
    wanted = tiles_with(lost[:samples, :outputs], slices)
    other, unit = _sums_of_ratios(x_t, w_t, p, exponent, wanted)
    return torch.where(lost, other, total), torch.where(lost, unit, factor.reciprocal())


def _sums_of_ratios(
    x_t: Tensor, w_t: Tensor, p: float, exponent: Tensor, wanted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same for any p, each pair by the unit of its largest distance, and in wanted tiles alone."""
    peaks, _ = _peaks(x_t, w_t, wanted=wanted)
    unit, lift = _whole(peaks), gpu_range.lift(exponent)
    scale = gpu_range.reciprocal(lift * unit).expand_as(peaks).contiguous()
    total = _sums(x_t, w_t, p, lift, scale, wanted)
    return total.nan_to_num_(1).clamp_(min=1), unit  # beside an infinite distance the sum is NaN


def _sums(
    x_t: Tensor, w_t: Tensor, p: float, factor: Tensor, scale: Tensor | None = None, wanted: Tensor | None = None
) -> Tensor:
    """The sums of `power_sums` over all slices, [B, O]."""
    total = x_t.new_zeros(*x_t.shape[1:], w_t.shape[2])
    _launch("power_sums", total, x_t, w_t, factor, scale, wanted, total, **exponent_of(p, p), CHUNK=CHUNK)
    return total.sum(0, dtype=torch.float64).float() if len(total) > 1 else total[0]


def _peaks(x_t: Tensor, w_t: Tensor, *, with_span: bool = False, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of each slice of the inputs the largest distance, and where in it the span starts that has it, [S, B, O] each."""
    y = x_t.new_zeros(*x_t.shape[1:], w_t.shape[2])
    span = torch.empty_like(y, dtype=torch.int32) if with_span else y.new_empty(0, dtype=torch.int32)
    _launch("peaks", y, x_t, w_t, wanted, y, span, WITH_SPAN=with_span, SPAN=SPAN)
    return y, span


def _whole(peaks: Tensor) -> Tensor:
    return peaks.amax(0) if len(peaks) > 1 else peaks[0]


def _first_of(peaks: Tensor, spans: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The largest distance of all slices, of so many inputs each, and the start of the first span that has it."""
    if len(peaks) == 1:
        return peaks[0], spans[0]
    largest = peaks.max(0, keepdim=True)  # of equal ones the first
    start = spans.gather(0, largest.indices) + largest.indices.int() * length
    return largest.values[0], start[0]


def _ratios_of(x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, weights and a scale [B, O] with t / y = (x_i - w_i) scale, at finite p; of t the sign where p = 1."""
    if p == 1:  # no ratio may underflow, and nothing be clamped, and lose it
        return x.contiguous(), w.contiguous(), torch.ones_like(y)
    infinite = y.isinf()
    factor = gpu_range.ratio_factor(gpu_range.exponent(x, w), infinite.any(), p)
    scale = gpu_range.reciprocal((y * factor).masked_fill_(infinite, FAR))
    return (x * factor).clamp_(-FAR, FAR), (w * factor).clamp_(-FAR, FAR), scale


def _gradients(
    x: Tensor, w: Tensor, grad: Tensor, scale: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """sum_o u and -sum_b u for u[b, o, i] = grad sign(r) |r|^(p - 1), r = (x[b, i] - w[o, i]) scale[b, o].

    Each program takes up to SAMPLES samples in turn, for its tile of outputs and inputs. One not needed comes back
    without rows.
    """
    width = columns_of(x.shape[1])
    wide, weights = padded(x, 1, width), padded(w, ROWS, width)
    # at p = 1 inputs may be infinite, and times 0 no number
    grad, scale = padded(grad, 1, ROWS), padded(scale, 1, ROWS, value=float(p == 1))
    # What tiles and launches find adds up in float64, since equal sums are all rounded the same way.
    grad_x = wide.new_zeros(len(wide) if need_x else 0, wide.shape[1], dtype=torch.float64)
    grad_w = weights.new_zeros(len(weights) if need_w else 0, wide.shape[1])
    several = len(wide) > SAMPLES
    total_w = grad_w.double() if several else grad_w
    tiles = _LARGEST_PARTS // max(1, wide[:SAMPLES].numel()) if need_x else len(weights)
    step = max(1, tiles) * ROWS
    for b in range(0, len(wide), SAMPLES):
        for o in range(0, len(weights), step):
            samples, outputs = slice(b, b + SAMPLES), slice(o, o + step)
            pulls, inverses = (a[samples, outputs].contiguous() for a in (grad, scale))
            sums_w = grad_w[outputs].zero_() if several else grad_w[outputs]
            parts_x = _add_gradients(wide[samples], weights[outputs], pulls, inverses, sums_w, p, need_x, need_w)
            if need_x:
                grad_x[samples] += parts_x.sum(0, dtype=torch.float64)
            if several:
                total_w[outputs] += sums_w
    return grad_x[:, : x.shape[1]].float().contiguous(), total_w[: len(w), : x.shape[1]].float().contiguous()


def _add_gradients(
    x: Tensor, w: Tensor, grad: Tensor, scale: Tensor, grad_w: Tensor, p: float, need_x: bool, need_w: bool
) -> Tensor:
    """Add -sum_b u to grad_w and return sums of u over ROWS outputs each, [O / ROWS, B, I]; of whole tiles."""
    width = columns_of(x.shape[1])
    parts_x = x.new_empty(len(w) // ROWS if need_x else 0, *x.shape)
    launch(
        "gradient_sums", grad_w, w.numel() // (ROWS * width), x, w, grad, scale, parts_x, grad_w, len(x), *w.shape,
        **exponent_of(p, p - 2), NEED_X=need_x, NEED_W=need_w, CHUNK=CHUNK, ROWS=ROWS, COLS=width,
        num_warps=BACKWARD_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return parts_x


def _by_output(samples: int, outputs: int, features: int, need_x: bool, need_w: bool) -> bool:
    """Whether samples are taken in turn and outputs side by side, or the other way round.

    The fewer in turn; but a single gradient is of what stands side by side, if that makes programs enough, since it is
    then whole at once and not the sum of parts.
    """
    cols = -(-features // columns_of(features))
    by_sample, by_output = (-(-n // ROWS) * cols for n in (samples, outputs))
    if need_x == need_w:
        return samples <= outputs
    whole, other = (by_output, by_sample) if need_w else (by_sample, by_output)
    return need_w == (whole >= min(LEAST_PROGRAMS, other))


def at_once(p: float) -> bool:
    """Whether sums of p-th powers have room in float32 without the largest distances first."""
    return p <= _LARGEST_P_AT_ONCE and exponent_of(p, p)["natural_p"] != 0


def exponent_of(p: float, raised_to: float) -> dict[str, float | tuple[float, ...]]:
    """How the kernels raise: by squaring where that is short, else by the fit of powers.py, else by exp2 and log2."""
    whole = float(p).is_integer() and p <= _LARGEST_NATURAL_P
    natural = int(p) if whole and (p <= _LARGEST_DENSE_P or int(p).bit_count() == 1) else 0
    squarings, fit = -1, (0.0, 0.0)
    if not natural and raised_to > powers.LEAST_EXPONENT:
        squarings, coefficients = powers.fit(raised_to, powers.least_degree(raised_to))
        # The fit goes on falling to 2^-64, where not even 2^31 terms count; 2^-32 of each of 2^16 terms would.
        fit = (*coefficients.tolist(), powers.least_ratio(raised_to) ** 2 - 1)
    return {"p": float(p), "fit": fit, "natural_p": natural, "squarings": squarings}


def _launch(kernel: str, out: Tensor, x_t: Tensor, *arguments: Tensor | None, **constants: Any) -> None:
    """One program for each tile and slice of out [S, B, O]; x_t [I / S, S, B] is the first argument."""
    slices, samples, outputs = out.shape
    rows, cols = tile_of(samples), tile_of(outputs)
    launch(
        kernel, out, out.numel() // (rows * cols), x_t, *arguments, slices * samples, outputs, len(x_t), slices,
        **constants, ROWS=rows, COLS=cols, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
