"""Weighted order statistics of distances, the neuron of SortNet (NeurIPS 2022): operations, autograd, reference.

    y[b, o] = sum_k c_k t_(k),  t_(1) >= t_(2) >= ... the sorted distances |x_bi - w_oi|,  c >= 0

float32 on the CPU runs Numba kernels, anything else plain PyTorch, a few samples at a time. The terms are added in the
order of k, each product and each sum rounded, so that the executed y is increasing in every distance and the executed
bounds hold for it. The gradient needs the places of the largest distances and nothing else.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from lib.ops.checks import check_pair, describe, refuse_tangents
from lib.ops.compiled import in_turn, ready

# Distances made at a time, three copies of them at most: a GPU has memory for more of them than a CPU can sort at once.
_CPU_TILE, _GPU_TILE = 1 << 24, 1 << 28


def sort_dist(x: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """y[b, o] = sum_k c_k t_(k) over the K largest distances t = |x_b - w_o|, differentiable in x and w.

    Args:
        x: inputs [B, I].
        w: weights [O, I], of the dtype and device of x.
        c: coefficients [K], 1 <= K <= I, of the same; not negative, and of sum at most 1 for a 1-Lipschitz neuron.

    Returns:
        y [B, O]. Its gradient in x is c_k sign(x_i - w_i) at the place i of the k-th largest distance, 0 elsewhere and
        where the distance is 0.

    Raises:
        ValueError: shapes that do not match, K outside 1..I, or c negative, not finite, or requiring a gradient.
        TypeError: inputs that are not floating point, or differ in dtype or device.
        NotImplementedError: forward-mode differentiation, as by torch.func.jvp.
    """
    _check("x", x, w, c)
    refuse_tangents(x=x, w=w, c=c)
    y, _ = _sort_dist(x, w, c, torch.is_grad_enabled() and (x.requires_grad or w.requires_grad))
    return cast(Tensor, y)


def sort_dist_bounds(lower: Tensor, upper: Tensor, w: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Exact bounds of `sort_dist` over the box lower <= v <= upper: the same sum over sorted bounds of the distances.

    The distance of coordinate i lies between max(l_i - w_i, w_i - u_i, 0) and max(|l_i - w_i|, |u_i - w_i|), the
    coordinates are free of each other, and a sum of sorted entries with c >= 0 is increasing in every entry.

    Args:
        lower, upper: the box, [B, I] each.
        w, c: as in `sort_dist`.

    Returns:
        (lower, upper), [B, O] each. The executed y of every v in the box lies between them. Not differentiable.

    Raises:
        ValueError, TypeError, NotImplementedError: as `sort_dist`.
    """
    _check("lower", lower, w, c)
    _check("upper", upper, w, c)
    if lower.shape != upper.shape:
        raise ValueError(f"lower and upper must agree in shape, got {list(lower.shape)} and {list(upper.shape)}")
    refuse_tangents(lower=lower, upper=upper, w=w, c=c)
    return cast(tuple[Tensor, Tensor], _sort_dist_bounds(lower, upper, w, c))


def _check(name: str, x: Tensor, w: Tensor, c: Tensor) -> None:
    check_pair(name, x, w)
    if c.dim() != 1 or not 1 <= len(c) <= x.shape[1]:
        raise ValueError(f"c must be [K] with 1 <= K <= {x.shape[1]}, the number of features, got {list(c.shape)}")
    if c.dtype != w.dtype or c.device != w.device:
        raise TypeError(f"c must share the dtype and the device of w, got {describe(c)} and {describe(w)}")
    if c.requires_grad:
        raise ValueError("c must be a constant, for sort_dist has no gradient in it, got c with requires_grad=True")


def _check_coefficients(c: Tensor) -> None:
    wrong = [value for value in c.tolist() if not 0 <= value < math.inf]
    if wrong:
        raise ValueError(f"c must hold finite coefficients of at least 0, got {wrong[0]}")


def _weighted(values: Tensor, c: Tensor) -> Tensor:
    """sum_k c_k values[k], [K, B, O] -> [B, O], in the order of k."""
    y = values[0] * c[0]
    for k in range(1, len(c)):
        y = y + values[k] * c[k]
    return y


def _largest(lower: Tensor, upper: Tensor, w: Tensor, count: int, *, least: bool) -> Tensor:
    """The `count` largest distances [K, B, O], in falling order, each at its least or its greatest over the box."""
    if _has_kernel(count, lower, upper, w):
        return _largest_by_kernel(lower, upper, w, count, least)
    return _largest_by_topk(lower, upper, w, count, least)[0]


def _has_kernel(count: int, *inputs: Tensor) -> bool:
    if not all(t.device.type == "cpu" and t.dtype is torch.float32 and t.numel() for t in inputs):
        return False
    # maxima in the kernels would lose a NaN
    return count <= ready("order_kernels").MOST and all(math.isfinite(end) for t in inputs for end in t.aminmax())


@in_turn
def _largest_by_kernel(lower: Tensor, upper: Tensor, w: Tensor, count: int, least: bool) -> Tensor:
    kernels = ready("order_kernels")
    more = -w.shape[1] % kernels.STEP
    low, high = F.pad(lower, (0, more)), F.pad(upper, (0, more))
    panels = F.pad(w, (0, more, 0, -len(w) % kernels.WIDTH)).unflatten(0, (-1, kernels.WIDTH))
    lanes = panels.transpose(1, 2).flatten(1)
    values = lower.new_empty(count, len(lower), len(lanes) * kernels.WIDTH)
    kernels.largest(*(t.contiguous().numpy() for t in (low, high, lanes)), least, values.numpy())
    return values[:, :, : len(w)]


@in_turn
def _places_by_kernel(x: Tensor, w: Tensor, values: Tensor) -> Tensor:
    kernels, places = ready("order_kernels"), torch.empty(len(x), len(w), len(values), dtype=torch.int32)
    more = -x.shape[1] % kernels.WORD
    x, w = F.pad(x, (0, more), value=math.nan), F.pad(w, (0, more))
    kernels.find(*(t.contiguous().numpy() for t in (x, w, values)), places.numpy())
    return places


def _largest_by_topk(lower: Tensor, upper: Tensor, w: Tensor, count: int, least: bool) -> tuple[Tensor, Tensor]:
    """The largest distances [K, B, O] and their places [B, O, K], int32; lower is upper where the box is a point."""
    rows = max(1, (_GPU_TILE if w.is_cuda else _CPU_TILE) // max(1, w.numel()))
    lows = lower.split(rows)
    highs = lows if lower is upper else upper.split(rows)
    tiles = [_distances(low, high, w, least).topk(count, -1) for low, high in zip(lows, highs, strict=True)]
    return torch.cat([t.values for t in tiles]).movedim(-1, 0), torch.cat([t.indices.int() for t in tiles])


def _distances(low: Tensor, high: Tensor, w: Tensor, least: bool) -> Tensor:
    from_low = low[:, None] - w
    if low is high:
        return from_low.abs_()
    from_high = high[:, None] - w
    if least:
        return torch.maximum(from_low, from_high.neg_()).clamp_(min=0)
    return torch.maximum(from_low.abs_(), from_high.abs_())


@torch.library.custom_op("linf_dist_book::sort_dist", mutates_args=())
def _sort_dist(x: Tensor, w: Tensor, c: Tensor, with_places: bool) -> tuple[Tensor, Tensor]:
    _check_coefficients(c)  # here, where a compiled graph has values too
    none = x.new_empty(0, dtype=torch.int32)
    if _has_kernel(len(c), x, w):
        values = _largest_by_kernel(x, x, w, len(c), least=True)  # over a point: the end of fewer operations
        places = _places_by_kernel(x, w, values) if with_places else none
    else:
        values, places = _largest_by_topk(x, x, w, len(c), least=True)
    return _weighted(values, c), places if with_places else none


@_sort_dist.register_fake
def _(x: Tensor, w: Tensor, c: Tensor, with_places: bool) -> tuple[Tensor, Tensor]:
    shape = (len(x), len(w))
    return x.new_empty(shape), x.new_empty((*shape, len(c)) if with_places else (0,), dtype=torch.int32)


@torch.library.custom_op("linf_dist_book::sort_dist_backward", mutates_args=())
def _sort_dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, c: Tensor, places: Tensor, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    if _has_kernel(len(c), x, w):
        exchanged = grad.T, w, x, c, places.transpose(0, 1)
        return (
            _gradient_by_kernel(grad, x, w, c, places) if need_x else x.new_empty(0),
            _gradient_by_kernel(*exchanged) if need_w else w.new_empty(0),
        )
    at = places.long()
    t = x[:, None].take_along_dim(at, 2) - w[None].take_along_dim(at, 2)
    share = grad[..., None] * c * t.sign_()
    return (
        _gathered(share, at, x) if need_x else x.new_empty(0),
        _gathered(-share.transpose(0, 1), at.transpose(0, 1), w) if need_w else w.new_empty(0),
    )


@in_turn
def _gradient_by_kernel(grad: Tensor, x: Tensor, w: Tensor, c: Tensor, places: Tensor) -> Tensor:
    """That of x; a distance knows no difference between x and w, so that of w with all roles exchanged."""
    gx = torch.zeros_like(x, memory_format=torch.contiguous_format)
    ready("order_kernels").gradient(*(t.contiguous().numpy() for t in (grad, x, w, c, places)), gx.numpy())
    return gx


def _gathered(share: Tensor, at: Tensor, like: Tensor) -> Tensor:
    """[B, O, K] -> [B, I], each share added up at its place."""
    return like.new_zeros(like.shape).scatter_add_(1, at.flatten(1), share.flatten(1))


@_sort_dist_backward.register_fake
def _(
    grad: Tensor, x: Tensor, w: Tensor, c: Tensor, places: Tensor, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if need_x else (0,)), w.new_empty(w.shape if need_w else (0,))


def _save_for_backward(
    ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor, bool], output: tuple[Tensor, ...]
) -> None:
    x, w, c, _ = inputs
    ctx.save_for_backward(x, w, c, output[1])


def _backward(ctx: FunctionCtx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, w, c, places = ctx.saved_tensors  # type: ignore[attr-defined]
    need_x, need_w, *_rest = ctx.needs_input_grad  # type: ignore[attr-defined]
    gx, gw = _sort_dist_backward(grad, x, w, c, places, need_x, need_w)
    return gx if need_x else None, gw if need_w else None, None, None


_sort_dist.register_autograd(_backward, setup_context=_save_for_backward)


# opaque like `sort_dist`: a compiler that fused a product and a sum would round them otherwise than the net does
@torch.library.custom_op("linf_dist_book::sort_dist_bounds", mutates_args=())
def _sort_dist_bounds(lower: Tensor, upper: Tensor, w: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    _check_coefficients(c)
    least, greatest = (_largest(lower, upper, w, len(c), least=least) for least in (True, False))
    return _weighted(least, c), _weighted(greatest, c)


@_sort_dist_bounds.register_fake
def _(lower: Tensor, upper: Tensor, w: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    shape = (len(lower), len(w))
    return lower.new_empty(shape), lower.new_empty(shape)
