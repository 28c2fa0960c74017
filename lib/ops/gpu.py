"""The l_p distance in float32 on CUDA, by the Triton kernels of `gpu_kernels.py`; functions as in `reference.py`.

Triton is imported on the first call. Every answer is deterministic: fixed tiles, no autotuning, no atomics but those of
integers, whose sums do not depend on the order.
"""

import math
from typing import Any

import torch
from torch import Tensor

from lib.ops import powers
from lib.ops.gpu_launch import launch, padded
from lib.ops.gpu_scatter import scattered

# A program of the forward has up to TILE x TILE pairs, 32 of them in the registers of each thread: a step loads 12
# values for these and is nearly all arithmetic.
LEAST_TILE, TILE, WARPS = 16, 64, 4
# Terms that are added one by one, off by at most 5 2^-24 of their sum, before it joins the compensated total.
CHUNK = 16
# A program of the backward at finite p is one warp, with so many outputs and from LEAST_COLS to COLS inputs: of COLS a
# thread holds all rows of four.
ROWS, LEAST_COLS, COLS, BACKWARD_WARPS = 16, 32, 128, 1
# With so many samples in turn, and so many sums over tiles of outputs (256 MiB), a launch has 1,024 programs: an H200
# has room for about as many.
SAMPLES, _LARGEST_PARTS = 512, 2**26
LEAST_PROGRAMS = 528  # one for each scheduler of an H200
# A forward of fewer tiles takes its inputs in slices, of so many or more: one program for each tile and slice.
LEAST_SLICE = 64
_LARGEST_DENSE_P = 16  # of those that are no powers of two: up to it there is no fit, and six products do
_LARGEST_NATURAL_P = 1024  # beyond it, squaring costs more than a fit
_LARGEST_FLOAT = torch.finfo(torch.float32).max
# `_lift` brings the largest input near 2^100, where no distance overflows yet, by a factor of at most 2^126.
_LIFTED_BITS, _LARGEST_LIFT_BITS = 100, 126
# What stands for infinity in the backward: it has an inverse, and two of them on either side of 0 are infinitely apart.
_FAR = 2.0**127
# Inputs among which the first maximum is looked for, and pairs of a program that looks at each pair alone.
SPAN, PAIRS = 16, 256


def lp_dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """y[b, o] = ||x_b - w_o||_p, [B, O], for x [B, I], w [O, I]; exactly max_i |fl(x_i - w_i)| at p = inf.

    Finite p: y = m (sum_i (|t_i| / m)^p)^(1/p), one pass for m = max_i |t_i| and one for the sum.

    Raises:
        ModuleNotFoundError: Triton is not installed.
        RuntimeError: Triton finds no C compiler.
    """
    if math.isinf(p):
        return _crop(_whole(_peaks(*_slices(x, w), with_span=False)[0]), x, w)
    lift = _lift(x, w)
    x_t, w_t = _slices(x * lift, w * lift)
    peaks, _ = _peaks(x_t, w_t, with_span=False)
    peak, total = _whole(peaks), torch.empty_like(peaks)
    scale = _reciprocal(peak).expand_as(peaks).contiguous()
    _launch("power_sums", total, x_t, w_t, scale, total, **exponent_of(p, p), CHUNK=CHUNK)
    # The root in float64: the backward raises y to the power p, and its error with it. Beside an infinite distance
    # the sum is NaN, and counts as 1.
    y = total.sum(0, dtype=torch.float64).nan_to_num_(1).clamp_(min=1).pow_(1 / p).mul_(peak).div_(lift)
    return _crop(y.float(), x, w)


def lp_dist_argmax(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The p = inf distance y [B, O] and the first index i (int32 [B, O]) with |x_bi - w_oi| = y_bo.

    Raises:
        ModuleNotFoundError: Triton is not installed.
        RuntimeError: Triton finds no C compiler.
    """
    x_t, w_t = _slices(x, w)
    y, index = (_crop(a, x, w) for a in _first_of(*_peaks(x_t, w_t, with_span=True), len(x_t)))
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
    infinite = y.isinf()
    lift = _lift(x, w, infinite.any() & (p > 1))
    # At p = 1 only the sign counts, and no ratio may underflow and lose it.
    scale = torch.ones_like(y) if p == 1 else _reciprocal((y * lift).masked_fill_(infinite, _FAR))
    x, w = ((a * lift).clamp_(-_FAR, _FAR) for a in (x, w))
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
    l_t, u_t, w_t = _slices(lower, upper, w)
    least = lower.new_zeros(*l_t.shape[1:], w_t.shape[2])
    greatest = torch.zeros_like(least)
    _launch("box_peaks", least, l_t, u_t, w_t, least, greatest)
    return _crop(_whole(least), lower, w), _crop(_whole(greatest), lower, w)


def _peaks(x_t: Tensor, w_t: Tensor, *, with_span: bool) -> tuple[Tensor, Tensor]:
    """Of each slice of the inputs the largest distance, and where in it the span starts that has it, [S, B, O] each."""
    y = x_t.new_zeros(*x_t.shape[1:], w_t.shape[2])
    span = torch.empty_like(y, dtype=torch.int32) if with_span else y.new_empty(0, dtype=torch.int32)
    _launch("peaks", y, x_t, w_t, y, span, WITH_SPAN=with_span, SPAN=SPAN)
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


def _gradients(
    x: Tensor, w: Tensor, grad: Tensor, scale: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """sum_o u and -sum_b u for u[b, o, i] = grad sign(r) |r|^(p - 1), r = (x[b, i] - w[o, i]) scale[b, o].

    Each program takes up to SAMPLES samples in turn, for its tile of outputs and inputs. One not needed comes back
    without rows.
    """
    width = columns_of(x.shape[1])
    wide, weights = padded(x, 1, width), padded(w, ROWS, width)
    grad, scale = padded(grad, 1, ROWS), padded(scale, 1, ROWS)
    grad_x = wide.new_zeros(len(wide) if need_x else 0, wide.shape[1])
    grad_w = weights.new_zeros(len(weights) if need_w else 0, wide.shape[1])
    tiles = _LARGEST_PARTS // max(1, wide[:SAMPLES].numel()) if need_x else len(weights)
    step = max(1, tiles) * ROWS
    for b in range(0, len(wide), SAMPLES):
        for o in range(0, len(weights), step):
            samples, outputs = slice(b, b + SAMPLES), slice(o, o + step)
            pulls, inverses = (a[samples, outputs].contiguous() for a in (grad, scale))
            parts_x = _add_gradients(
                wide[samples], weights[outputs], pulls, inverses, grad_w[outputs], p, need_x, need_w
            )
            if need_x:
                grad_x[samples] += parts_x.sum(0)
    return grad_x[:, : x.shape[1]].contiguous(), grad_w[: len(w), : x.shape[1]].contiguous()


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


def columns_of(features: int) -> int:
    """Inputs of a program of the backward at finite p: few are padded to a power of two, many to multiples of COLS."""
    return _within(LEAST_COLS, features, COLS)


def tile_of(vectors: int) -> int:
    """Samples, or outputs, of a program of the forward: few are padded to a power of two, many to multiples of TILE."""
    return _within(LEAST_TILE, vectors, TILE)


def _within(least: int, count: int, most: int) -> int:
    return min(most, max(least, 1 << (count - 1).bit_length()))


def exponent_of(p: float, raised_to: float) -> dict[str, float | tuple[float, ...]]:
    """How the kernels raise: by squaring where that is short, else by the fit of powers.py, else by exp2 and log2."""
    whole = float(p).is_integer() and p <= _LARGEST_NATURAL_P
    natural = int(p) if whole and (p <= _LARGEST_DENSE_P or int(p).bit_count() == 1) else 0
    squarings, fit = -1, (0.0,) * (powers.DEGREE + 2)
    if not natural and raised_to > powers.LEAST_EXPONENT:
        squarings, coefficients = powers.fit(raised_to)
        # The fit goes on falling to 2^-64, where not even 2^31 terms count; 2^-32 of each of 2^16 terms would.
        fit = (*coefficients.tolist(), powers.least_ratio(raised_to) ** 2 - 1)
    return {"p": float(p), "fit": fit, "natural_p": natural, "squarings": squarings}


def _lift(x: Tensor, w: Tensor, infinite: Tensor | None = None) -> Tensor:
    """A power of two, at least 1: exact to multiply by, and then the inverse of a distance below 2^-126 is a float32.

    Beside inputs beyond 2^77 the inverses of the smallest stay clamped. A tensor, so that nothing waits for the device.
    Where `infinite`, any power of two that leaves all finite inputs below 1, next to nothing beside `_FAR`.
    """
    exponent = torch.frexp(torch.maximum(_largest(x), _largest(w))).exponent
    bits = (_LIFTED_BITS - exponent).clamp_(min=0)
    if infinite is not None:
        bits = torch.where(infinite, -exponent, bits)
    return torch.exp2(bits.clamp_(max=_LARGEST_LIFT_BITS).double()).float()


def _largest(a: Tensor) -> Tensor:
    """The largest |a| in the rows that are finite, as are their distances alone; 0 where there is none."""
    sizes = torch.linalg.vector_norm(a, math.inf, dim=1)
    return sizes.nan_to_num_(0, 0).amax() if len(a) else a.new_zeros(())


def _reciprocal(y: Tensor) -> Tensor:
    return y.reciprocal().clamp_(max=_LARGEST_FLOAT)  # 1 / 0 is inf, and 0 inf would be NaN


def _slices(*matrices: Tensor) -> list[Tensor]:
    """Each [rows, I] as [I / S, S, rows], S slices of its features: as many as make programs enough with the tiles.

    One feature of all rows is one contiguous vector, of whole tiles, and several slices are of whole spans, so that a
    span starts at a multiple of SPAN, as `first_in_span` is told. Zeros fill up, which change no distance.
    """
    tiles = math.prod(-(-len(a) // tile_of(len(a))) for a in (matrices[0], matrices[-1]))
    features = matrices[0].shape[1]
    most = max(1, min(LEAST_PROGRAMS // max(1, tiles), features // LEAST_SLICE))
    length = features if most == 1 else -(-features // (most * SPAN)) * SPAN
    slices = -(-features // length)
    whole = (padded(a, tile_of(len(a)), slices * length) for a in matrices)
    return [a.unflatten(1, (slices, length)).permute(2, 1, 0).contiguous() for a in whole]


def _crop(y: Tensor, x: Tensor, w: Tensor) -> Tensor:
    return y[: len(x), : len(w)].contiguous()


def _launch(kernel: str, out: Tensor, x_t: Tensor, *arguments: Tensor, **constants: Any) -> None:
    """One program for each tile and slice of out [S, B, O]; x_t [I / S, S, B] is the first argument."""
    slices, samples, outputs = out.shape
    rows, cols = tile_of(samples), tile_of(outputs)
    launch(
        kernel, out, out.numel() // (rows * cols), x_t, *arguments, slices * samples, outputs, len(x_t), slices,
        **constants, ROWS=rows, COLS=cols, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
