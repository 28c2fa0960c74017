"""The l_p distance for float32 on the CPU: cuts inputs and weights into blocks and calls the Numba kernels.

Numba is imported on the first call. Inputs that are not finite, or beyond 2^126 where a difference could overflow, go
to the reference. Threads: torch.get_num_threads() is the one knob; results do not depend on it.
"""

import importlib
import math
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lib.ops import reference

_LARGEST_INPUT = 2.0**126
# Up to these every term is squared out; above, terms that do not count are skipped, which pays later in the backward.
_LARGEST_SQUARED_P_FORWARD, _LARGEST_SQUARED_P_BACKWARD = 64, 1024
_BACKWARD_TASKS = 16


def lp_dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """y[b, o] = ||x_b - w_o||_p, x [B, I], w [O, I], y [B, O]: exact at p = inf, finite p to 1e-5 relative."""
    if not _in_range(x, w):
        return reference.lp_dist(x, w, p)
    k, y = _kernels(), x.new_empty(len(x), len(w))
    if math.isinf(p):
        k.forward_max(_blocks(x, k.BLOCK), _lanes(w), y.numpy())
    elif squarings := _squarings(p, _LARGEST_SQUARED_P_FORWARD):
        lanes = _lanes(w)
        scale = _scale(x, lanes, p)
        lanes *= np.float32(scale)
        scaled = _blocks(x * scale, k.BLOCK)
        k.forward_squared(x.numpy(), w.numpy(), scaled, lanes, y.numpy(), np.float32(1 / scale), squarings)
    else:
        # The terms dropped add up to less than 2^-20 of the sum.
        cut = np.float32(2.0 ** (-(20 + math.log2(x.shape[1])) / p))
        k.forward_power(_blocks(x, k.BLOCK), _lanes(w), _blocks(w, k.BLOCK), y.numpy(), np.float32(p), cut)
    return y


def lp_dist_argmax(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The p = inf distance y [B, O] and the first index i (int32 [B, O]) with |x_bi - w_oi| = y_bo."""
    if not _in_range(x, w):
        return reference.lp_dist_argmax(x, w)
    k, y = _kernels(), x.new_empty(len(x), len(w))
    index = torch.empty_like(y, dtype=torch.int32)
    k.forward_argmax(_blocks(x, k.BLOCK), _lanes(w), _blocks(w, k.BLOCK), y.numpy(), index.numpy())
    return y, index


def lp_dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of sum_bo grad_bo y_bo in x and w as in `reference.lp_dist_backward`; one not needed is empty, [0].

    The kernels find both at once: the powers cost far more than the second accumulation.
    """
    if not _in_range(x, w, grad):
        return reference.lp_dist_backward(grad, x, w, y, index, p, need_x, need_w)
    if math.isinf(p):
        grad_x, grad_w = _backward_inf(grad, x, w, index)
    elif squarings := _squarings(p, _LARGEST_SQUARED_P_BACKWARD):
        grad_x, grad_w = _backward_squared(grad, x, w, y, squarings)
    else:
        grad_x, grad_w = _backward_power(grad, x, w, y, p)
    return grad_x if need_x else x.new_empty(0), grad_w if need_w else w.new_empty(0)


def linf_dist_bounds(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest p = inf distance over the box, each [B, O], with the roundings of the reference."""
    if not _in_range(lower, upper, w):
        return reference.linf_dist_bounds(lower, upper, w)
    k, least, greatest = _kernels(), lower.new_empty(len(lower), len(w)), lower.new_empty(len(lower), len(w))
    k.forward_bounds(_blocks(lower, k.BLOCK), _blocks(upper, k.BLOCK), _lanes(w), least.numpy(), greatest.numpy())
    return least, greatest


def _backward_inf(grad: Tensor, x: Tensor, w: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    k, pull = _kernels(), torch.empty_like(grad)
    grad_x, grad_w = torch.zeros_like(x), torch.zeros_like(w)
    k.pull_index(x.numpy(), w.numpy(), grad.numpy(), index.numpy(), pull.numpy(), grad_x.numpy())
    k.scatter_index(pull.numpy(), index.numpy(), grad_w.numpy())
    return grad_x, grad_w


def _backward_squared(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, squarings: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    k = _kernels()
    # The kernel takes 2 samples x 4 outputs at a time; padding has gradient 0.
    rows, cols = -len(x) % 2, -len(w) % 4
    x_wide = _blocks(_pad(x, rows, 0), k.WIDE)
    w_wide = _blocks(_pad(w, cols, 0), k.WIDE)
    inverse = _pad(y.reciprocal().clamp_(max=float(k.HUGE)), rows, cols)
    # Shares of the outputs keep all threads busy where there are few blocks of inputs.
    grad_x = np.zeros((-(-_BACKWARD_TASKS // len(x_wide)), *x_wide.shape), np.float32)
    grad_w = np.zeros_like(w_wide)
    padded_grad = _pad(grad, rows, cols)
    # Ratios below this have (|t| / y)^p < 2^-60.
    floor = np.float32(2.0 ** (-120 / 2 ** len(squarings)))
    k.backward_squared(
        x_wide, w_wide, grad_x, grad_w, padded_grad.numpy(), inverse.numpy(), floor, squarings, x.shape[1]
    )
    return _unblock(grad_x.sum(0), x), _unblock(grad_w, w)


def _backward_power(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    k = _kernels()
    x_blocks, w_blocks = _blocks(x, k.BLOCK), _blocks(w, k.BLOCK)
    grad_x, grad_w = np.zeros_like(x_blocks), np.zeros_like(w_blocks)
    # A term below 2^-26 is lost in the rounding of the others.
    cut = np.float32(2.0 ** (-26 / (p - 1)) if p > 1 else 0)
    k.backward_power(x_blocks, _lanes(w), w_blocks, grad_x, grad_w, grad.numpy(), y.numpy(), np.float32(p), cut)
    return _unblock(grad_x, x), _unblock(grad_w, w)


def _blocks(a: Tensor, width: int) -> NDArray[np.float32]:
    """[rows, I] -> [N, rows, width], the last block padded with zeros: x = w = 0 there, which changes no distance."""
    padded = _pad(a, 0, -a.shape[1] % width)
    return padded.view(len(a), -1, width).transpose(0, 1).contiguous().numpy()


def _pad(a: Tensor, rows: int, cols: int) -> Tensor:
    return F.pad(a, (0, cols, 0, rows)) if rows or cols else a


def _unblock(blocks: NDArray[np.float32], like: Tensor) -> Tensor:
    rows, cols = like.shape
    return torch.from_numpy(blocks).transpose(0, 1).reshape(blocks.shape[1], -1)[:rows, :cols].contiguous()


def _lanes(w: Tensor) -> NDArray[np.float32]:
    """[O, I] -> [N, P, BLOCK, L]: P panels of L outputs side by side, the last padded with zeros."""
    k = _kernels()
    panels = -(-len(w) // k.LANES)
    # Panels of equal width, a multiple of 16 so that vector loops have no remainder.
    width = -(-len(w) // (panels * 16)) * 16
    lanes = np.zeros((-(-w.shape[1] // k.BLOCK), panels, k.BLOCK, width), np.float32)
    k.pack_lanes(w.numpy(), lanes)
    return lanes


def _squarings(p: float, most: float) -> tuple[int, ...]:
    """A tuple of length n where p = 2^n is small enough to be squared out, else an empty one."""
    mantissa, exponent = math.frexp(p)
    return (0,) * (exponent - 1) if mantissa == 0.5 and p <= most else ()


def _scale(x: Tensor, lanes: NDArray[np.float32], p: float) -> float:
    """A power of two (exact to multiply by) that puts the sums of |t_i|^p high in the range of float32.

    Judged by the p = inf distances of a few samples; pairs that leave the range all the same are done again.
    """
    k, few = _kernels(), x[:: max(1, len(x) // 8)]
    distances = np.empty((len(few), lanes.shape[1] * lanes.shape[3]), np.float32)
    k.forward_max(_blocks(few, k.BLOCK), lanes, distances)
    room = (126 - math.log2(x.shape[1])) / p - 0.5
    return float(2.0 ** min(math.floor(room - math.log2(max(float(distances.max()), 2.0**-100))), 126))


def _magnitude(a: Tensor) -> float:
    low, high = torch.aminmax(a)
    return float(torch.maximum(-low, high))


def _in_range(*inputs: Tensor) -> bool:
    # NaN compares false; empty inputs have nothing to gain from a kernel.
    return all(a.numel() and _magnitude(a) <= _LARGEST_INPUT for a in inputs)


def _kernels() -> ModuleType:
    kernels, threads = importlib.import_module("lib.ops.cpu_kernels"), torch.get_num_threads()
    kernels.use_threads(threads)
    # Numba's OpenMP layer shares torch's runtime and sets its thread count when it starts.
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return kernels
