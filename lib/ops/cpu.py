"""The l_p distance for float32 on the CPU: pads inputs and weights to whole blocks and calls the Numba kernels.

Numba is imported on the first call. Inputs that are not finite, or beyond 2^126 where a difference could overflow, go
to the reference (not for the p = inf distance alone, whose kernels carry both along), and so do those with distances
below 2^-125. Threads: torch.get_num_threads() is the one knob; results do not depend on it.
"""

import math
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from lib.ops import powers, reference
from lib.ops.compiled import one_at_a_time, ready
from lib.ops.cpu_layout import flat, grid, room, shares, slabs, threads
from lib.ops.cpu_shapes import BLOCK, HUGE, WIDTH
from lib.ops.padding import cropped, padded

_LARGEST_INPUT = 2.0**126
# Up to this every term is squared out; above, terms that do not count are left out.
LARGEST_SQUARED_P = 32
# So few samples do not pay for packing the weights, at finite p only up to so many triples.
_FEW_SAMPLES, _FEW_TRIPLES = 3, 2**17
# Pulls in one run, at most.
_LONGEST_RUN = 64
# Below it the inverse of a distance is no float32.
_LEAST_DISTANCE = 2.0**-125


@one_at_a_time
def lp_dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """y[b, o] = ||x_b - w_o||_p, x [B, I], w [O, I], y [B, O]: exact at p = inf, finite p to 1e-5 relative."""
    if math.isinf(p) and x.numel() and w.numel():
        return _lp_dist(x, w, p)  # these kernels carry NaN and infinity along
    if not _in_range(x, w):
        return reference.lp_dist(x, w, p)
    y = _lp_dist(x, w, p)
    # the largest term is what the kernels divide by, and y is up to I^(1/p) times it
    return reference.lp_dist(x, w, p) if _has_tiny(y, x.shape[1] ** (1 / p)) else y


def _lp_dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    if len(x) <= _FEW_SAMPLES and (math.isinf(p) or len(x) * w.numel() <= _FEW_TRIPLES):
        return _few(x, w, p)
    whole, weights = padded(x, 1, BLOCK), padded(w, 1, BLOCK)
    y, tasks = room(x, w), grid(whole, weights)
    if math.isinf(p):
        _forward(x, w).forward_max(*flat(whole, weights, y), tasks)
    elif (squarings := _squarings(p)) is not None:
        scale = _scale(whole, weights, p)
        _forward(x, w).forward_squared(
            *flat(whole, whole * scale, weights, y), np.float32(scale), squarings, powers.rule_without_fit(p), tasks
        )
    else:
        cut = np.float32(powers.cut_ratio(p, x.shape[1]))
        _forward(x, w).forward_power(*flat(whole, weights, y), *_rule(p), cut, tasks)
    return cropped(y, len(x), len(w))


@one_at_a_time
def lp_dist_argmax(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The p = inf distance y [B, O] and the first index i (int32 [B, O]) with |x_bi - w_oi| = y_bo."""
    if not _in_range(x, w):
        return reference.lp_dist_argmax(x, w)
    whole, weights, y = padded(x, 1, BLOCK), padded(w, 1, BLOCK), room(x, w)
    index = x.new_empty(len(x), len(w), dtype=torch.int32)
    _forward(x, w).forward_argmax(*flat(whole, weights, y), index.numpy(), grid(whole, weights))
    return cropped(y, len(x), len(w)), index


@one_at_a_time
def lp_dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of sum_bo grad_bo y_bo in x and w as in `reference.lp_dist_backward`; one not needed is empty, [0].

    The kernels find both at once: the powers cost far more than the second accumulation.
    """
    if not (_in_range(x, w) and _in_range(grad, terms=max(grad.shape))) or (not math.isinf(p) and _has_tiny(y)):
        return reference.lp_dist_backward(grad, x, w, y, index, p, need_x, need_w)
    if math.isinf(p):
        grad_x, grad_w = _backward_inf(grad, x, w, index)
    elif (squarings := _squarings(p)) is not None:
        grad_x, grad_w = _backward_squared(grad, x, w, y, squarings)
    else:
        grad_x, grad_w = _backward_power(grad, x, w, y, p)
    return grad_x if need_x else x.new_empty(0), grad_w if need_w else w.new_empty(0)


@one_at_a_time
def linf_dist_bounds(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest p = inf distance over the box, each [B, O], with the roundings of the reference."""
    if not _in_range(lower, upper, w):
        return reference.linf_dist_bounds(lower, upper, w)
    low, high, weights = (padded(a, 1, BLOCK) for a in (lower, upper, w))
    least, greatest = room(lower, w), room(lower, w)
    _forward(lower, w).forward_bounds(*flat(low, high, weights, least, greatest), grid(low, weights))
    return cropped(least, len(lower), len(w)), cropped(greatest, len(lower), len(w))


def _few(x: Tensor, w: Tensor, p: float) -> Tensor:
    y, tasks = x.new_empty(len(x), len(w)), min(torch.get_num_threads(), threads(len(x) * w.numel()))
    _forward(x, w).forward_few(*flat(x, w, y), powers.rule_without_fit(p), *x.shape, tasks)
    return y


def _backward_inf(grad: Tensor, x: Tensor, w: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    k, pull = _backward(x, w), torch.empty_like(grad)
    grad_x, grad_w = torch.empty_like(x), torch.empty_like(w)
    k.pull_index(x.numpy(), w.numpy(), grad.numpy(), index.numpy(), pull.numpy(), grad_x.numpy())
    k.scatter_index(pull.numpy(), index.numpy(), grad_w.numpy())
    return grad_x, grad_w


def _backward_squared(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, squarings: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    # The kernel takes two outputs at a time; padding has gradient 0.
    whole, weights = padded(x, 1, BLOCK), padded(w, 2, BLOCK)
    # At p = 1 only the sign counts, and no ratio may underflow and lose it.
    by_output = (padded(a, 1, 2).T for a in (grad, _inverse(y) if squarings else torch.ones_like(y)))
    # Ratios below this have (|t| / y)^p < 2^-60.
    floor = np.float32(2.0 ** (-120 / 2 ** len(squarings)))
    grad_x, grad_w = slabs(whole, len(weights) // 2), torch.empty_like(weights)
    _backward(x, w).backward_squared(
        *flat(whole, weights), grad_x.flatten(1).numpy(), *flat(grad_w, *by_output), floor, squarings,
        _run(2 ** len(squarings)), shares(grad_x, len(weights)),
    )  # fmt: skip
    return cropped(_joined(grad_x), *x.shape), cropped(grad_w, *w.shape)


def _backward_power(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    whole, weights = padded(x, 1, BLOCK), padded(w, 1, BLOCK)
    cutoff = torch.where(y > 0, powers.cut_ratio(p - 1, x.shape[1]) * y, math.inf)
    pairs = padded(grad, 1, WIDTH), padded(_inverse(y), 1, WIDTH), padded(cutoff, 1, WIDTH, math.inf)
    grad_x, grad_w = slabs(whole, -(-len(w) // WIDTH)), torch.empty_like(weights)
    _backward(x, w).backward_power(
        *flat(whole, weights), grad_x.flatten(1).numpy(), *flat(grad_w, *pairs), *_rule(p - 1), _run(p),
        shares(grad_x, len(w)),
    )  # fmt: skip
    return cropped(_joined(grad_x), *x.shape), cropped(grad_w, *w.shape)


def _rule(exponent: float) -> tuple[powers.Rule, tuple[int, ...]]:
    """How to raise, and a tuple as long as the degree of the fit, for which the kernels are compiled."""
    rule = powers.rule(exponent)
    return rule, (0,) * (len(rule.coefficients) - 1)


def _joined(slabs: Tensor) -> Tensor:
    """The sum of the slabs, which takes the place of the first."""
    if len(slabs) > 1:
        ready("backward", threads(slabs.numel())).join_slabs(*flat(slabs), len(slabs), slabs[0].numel())
    return slabs[0]


def _run(p: float) -> int:
    """Pulls added one by one before a compensated step: n = 2 p equal ones lose an eighth of the promised p 2^-22."""
    return min(max(int(2 * p) // WIDTH * WIDTH, WIDTH), _LONGEST_RUN)


def _inverse(y: Tensor) -> Tensor:
    return y.reciprocal().clamp_(max=HUGE)


def _squarings(p: float) -> tuple[int, ...] | None:
    """A tuple of length n where p = 2^n is small enough to be squared out, else none."""
    mantissa, exponent = math.frexp(p)
    return (0,) * (exponent - 1) if mantissa == 0.5 and p <= LARGEST_SQUARED_P else None


def _scale(x: Tensor, w: Tensor, p: float) -> float:
    """A power of two (exact to multiply by) that puts the sums of |t_i|^p high in the range of float32.

    Judged by the p = inf distances of a few pairs; those that leave the range all the same are done again.
    """
    samples, outputs = (a[:: max(1, len(a) // count)].contiguous() for a, count in ((x, 4), (w, 64)))
    distance = float(_few(samples, outputs, math.inf).max())
    highest = (126 - math.log2(x.shape[1])) / p - 0.5
    return float(2.0 ** min(math.floor(highest - math.log2(max(distance, 2.0**-100))), 126))


def _magnitude(a: Tensor) -> float:
    low, high = (float(end) for end in torch.aminmax(a))  # both NaN where an entry is
    return max(-low, high)


def _has_tiny(y: Tensor, times: float = 1.0) -> bool:
    """Whether a distance other than 0, or what is so many `times` smaller, is too close to 0 to be divided by.

    The kernels cannot, the reference can.
    """
    least = _LEAST_DISTANCE * times
    return float(y.min()) < least and bool(((y > 0) & (y < least)).any())


def _in_range(*inputs: Tensor, terms: int = 1) -> bool:
    """Whether no sum of so many entries of one input can overflow."""
    # NaN compares false; empty inputs have nothing to gain from a kernel.
    return all(a.numel() and terms * _magnitude(a) <= _LARGEST_INPUT for a in inputs)


def _forward(x: Tensor, w: Tensor) -> ModuleType:
    return ready("forward", threads(len(x) * w.numel()))


def _backward(x: Tensor, w: Tensor) -> ModuleType:
    return ready("backward", threads(len(x) * w.numel()))
