"""Weighted order statistics of distances, the neuron of SortNet (NeurIPS 2022): the operations and autograd.

    y[b, o] = sum_k c_k t_(k),  t_(1) >= t_(2) >= ... the sorted distances |x_bi - w_oi|,  c >= 0

float32 on the CPU runs Numba kernels, on CUDA a Triton kernel, anything else plain PyTorch. The terms are added in the
order of k, each product and each sum rounded, so that the executed y is increasing in every distance and the executed
bounds hold for it. The gradient needs the places of the largest distances and nothing else.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from lib.ops import order_cpu, order_gpu, order_reference
from lib.ops.checks import autocast, check_box, check_pair, refuse_second_derivatives, refuse_tangents


class _Sibling(Protocol):
    def largest(self, lower: Tensor, upper: Tensor, w: Tensor, count: int, *, least: bool) -> Tensor: ...
    def largest_with_places(self, x: Tensor, w: Tensor, count: int) -> tuple[Tensor, Tensor]: ...
    def gradients(
        self, grad: Tensor, x: Tensor, w: Tensor, c: Sequence[float], places: Tensor, need_x: bool, need_w: bool
    ) -> tuple[Tensor, Tensor]: ...


def _sibling(x: Tensor) -> _Sibling:
    kernels = {"cpu": order_cpu, "cuda": order_gpu} if x.dtype is torch.float32 else {}
    return cast(_Sibling, kernels.get(x.device.type, order_reference))


def sort_dist(x: Tensor, w: Tensor, c: Sequence[float]) -> Tensor:
    """y[b, o] = sum_k c_k t_(k) over the K largest distances t = |x_b - w_o|, differentiable in x and w.

    Args:
        x: inputs [B, I].
        w: weights [O, I], of the dtype and device of x.
        c: K coefficients, 1 <= K <= I, not negative, rounded to the dtype of x; of sum at most 1 for a 1-Lipschitz
            neuron.

    Returns:
        y [B, O]. Its gradient in x is c_k sign(x_i - w_i) at the place i of the k-th largest distance, 0 elsewhere and
        where the distance is 0. On CUDA an infinite gradient in y gives NaN.

    Raises:
        ValueError: shapes that do not match, K outside 1..I, or a coefficient that is negative or not finite.
        TypeError: inputs that are no dense tensors of 16 to 64 bits, or differ in dtype or device; c in a tensor.
        NotImplementedError: forward-mode differentiation, as by torch.func.jvp, and second derivatives.
        ModuleNotFoundError, RuntimeError: on CUDA, Triton or the C compiler that it needs are not there.
    """
    x, w = autocast(x, w)
    check_pair("x", x, w)
    _check_coefficients(c, w.shape[1])
    refuse_tangents(x=x, w=w)
    y, _ = _sort_dist(x, w, c, torch.is_grad_enabled() and (x.requires_grad or w.requires_grad))
    return cast(Tensor, y)


def sort_dist_bounds(lower: Tensor, upper: Tensor, w: Tensor, c: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Exact bounds of `sort_dist` over the box lower <= v <= upper: the same sum over sorted bounds of the distances.

    The distance of coordinate i lies between max(l_i - w_i, w_i - u_i, 0) and max(|l_i - w_i|, |u_i - w_i|), the
    coordinates are free of each other, and a sum of sorted entries with c >= 0 is increasing in every entry.

    Args:
        lower, upper: the box, [B, I] each.
        w, c: as in `sort_dist`.

    Returns:
        (lower, upper), [B, O] each. The executed y of every v in the box lies between them. Not differentiable.

    Raises:
        ValueError, TypeError, NotImplementedError, ModuleNotFoundError, RuntimeError: as `sort_dist`.
    """
    check_box(lower, upper, w)
    _check_coefficients(c, w.shape[1])
    refuse_tangents(lower=lower, upper=upper, w=w)
    return cast(tuple[Tensor, Tensor], _sort_dist_bounds(lower, upper, w, c))


def _check_coefficients(c: Any, features: int) -> None:
    if isinstance(c, Tensor):
        raise TypeError("c must be a sequence of numbers, got a tensor (call tolist())")
    if not 1 <= len(c) <= features:
        raise ValueError(f"c must hold 1 to {features} coefficients, the number of features, got {len(c)}")
    for value in c:
        if not 0 <= value < math.inf:
            raise ValueError(f"c must hold finite coefficients of at least 0, got {value}")


def _weighted(values: Tensor, c: Sequence[float]) -> Tensor:
    """sum_k c_k values[k], [K, B, O] -> [B, O], in the order of k."""
    y = values[0] * c[0]
    for k in range(1, len(c)):
        y = y + values[k] * c[k]
    return y


@torch.library.custom_op("linf_dist_book::sort_dist", mutates_args=())
def _sort_dist(x: Tensor, w: Tensor, c: Sequence[float], with_places: bool) -> tuple[Tensor, Tensor]:
    sibling = _sibling(x)
    if with_places:
        values, places = sibling.largest_with_places(x, w, len(c))
        return _weighted(values, c), places
    values = sibling.largest(x, x, w, len(c), least=True)  # over a point: the end of fewer operations
    return _weighted(values, c), x.new_empty(0, dtype=torch.int32)


@_sort_dist.register_fake
def _(x: Tensor, w: Tensor, c: Sequence[float], with_places: bool) -> tuple[Tensor, Tensor]:
    shape = (len(x), len(w))
    return x.new_empty(shape), x.new_empty((*shape, len(c)) if with_places else (0,), dtype=torch.int32)


@torch.library.custom_op("linf_dist_book::sort_dist_backward", mutates_args=())
def _sort_dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, c: Sequence[float], places: Tensor, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    return _sibling(x).gradients(grad, x, w, c, places, need_x, need_w)


@_sort_dist_backward.register_fake
def _(
    grad: Tensor, x: Tensor, w: Tensor, c: Sequence[float], places: Tensor, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if need_x else (0,)), w.new_empty(w.shape if need_w else (0,))


_sort_dist_backward.register_autograd(refuse_second_derivatives)


def _save_for_backward(
    ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Sequence[float], bool], output: tuple[Tensor, ...]
) -> None:
    x, w, c, _ = inputs
    ctx.save_for_backward(x, w, output[1])
    ctx.c = c  # type: ignore[attr-defined]


def _backward(ctx: FunctionCtx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, w, places = ctx.saved_tensors  # type: ignore[attr-defined]
    need_x, need_w, *_rest = ctx.needs_input_grad  # type: ignore[attr-defined]
    gx, gw = _sort_dist_backward(grad, x, w, ctx.c, places, need_x, need_w)  # type: ignore[attr-defined]
    return gx if need_x else None, gw if need_w else None, None, None


_sort_dist.register_autograd(_backward, setup_context=_save_for_backward)


# opaque like `sort_dist`: a compiler that fused a product and a sum would round them otherwise than the net does
@torch.library.custom_op("linf_dist_book::sort_dist_bounds", mutates_args=())
def _sort_dist_bounds(lower: Tensor, upper: Tensor, w: Tensor, c: Sequence[float]) -> tuple[Tensor, Tensor]:
    least, greatest = (_sibling(w).largest(lower, upper, w, len(c), least=least) for least in (True, False))
    return _weighted(least, c), _weighted(greatest, c)


@_sort_dist_bounds.register_fake
def _(lower: Tensor, upper: Tensor, w: Tensor, c: Sequence[float]) -> tuple[Tensor, Tensor]:
    shape = (len(lower), len(w))
    return lower.new_empty(shape), lower.new_empty(shape)
