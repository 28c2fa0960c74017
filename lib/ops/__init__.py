"""The two public operations, declared once with `torch.library` and dispatched by device and dtype.

float32 on the CPU runs the Numba kernels, float32 on CUDA the Triton kernels; any other dtype or device and very large
finite p run the reference. All three siblings have the same four functions, so that a kernel can be read beside the
mathematics.
"""

import math
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from lib.ops import cpu, gpu, reference
from lib.ops.checks import (
    autocast,
    check_box,
    check_exponent,
    check_pair,
    refuse_second_derivatives,
    refuse_tangents,
)

__all__ = ["linf_dist_bounds", "lp_dist"]


# Beyond it the error of the kernels' gradients, p 2^-22, would exceed 2^-8; by p = 10^9 every entry would be 0.
_LARGEST_KERNEL_P = 2.0**14


class _Sibling(Protocol):
    def lp_dist(self, x: Tensor, w: Tensor, p: float) -> Tensor: ...
    def lp_dist_argmax(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]: ...
    def lp_dist_backward(
        self, grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
    ) -> tuple[Tensor, Tensor]: ...
    def linf_dist_bounds(self, lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor]: ...


def _sibling(x: Tensor, p: float = math.inf) -> _Sibling:
    has_kernels = x.dtype is torch.float32 and (p <= _LARGEST_KERNEL_P or math.isinf(p))
    kernels = {"cpu": cpu, "cuda": gpu} if has_kernels else {}
    return cast(_Sibling, kernels.get(x.device.type, reference))


def lp_dist(x: Tensor, w: Tensor, p: float = math.inf) -> Tensor:
    """y[b, o] = ||x[b] - w[o]||_p, differentiable in x and w (Eq. 2 without bias; Section 5 for finite p).

    Args:
        x: inputs [B, I]; B = 0 is allowed.
        w: weights [O, I], of the dtype and device of x.
        p: the exponent, 1 <= p <= inf.

    Under torch.autocast half precision is taken as float32. torch.compile makes a graph for each p.

    Returns:
        y [B, O]. For p = inf in float32 each entry is exactly max_i |fl(x_i - w_i)|. NaN in gives NaN out.

    The gradient at p = inf is one signed unit vector per (b, o), at the first maximal index, with sign(0) = +1; at
    finite p it is sign(t) (|t| / y)^(p - 1) for t = x - w, with sign(0) = 0, and 0 where y = 0. With up to 8192
    features the kernels' is off by at most p 2^-22 of its largest entry (2^-20 below p = 4), however many samples or
    outputs are equal; where contributions cancel, of the sum of their sizes. It is off by more only for 1 < p < 1.2 and
    terms 2^126 times as large as others. Finite p above 2^14 runs the reference, far slower. On CUDA an infinite
    gradient in y gives NaN at p = inf, and beside inputs beyond 2^77 distances below 2^-126 lose their precision.

    Raises:
        ValueError: features that do not match or are none, or p outside [1, inf].
        TypeError: inputs that are no dense tensors of 16 to 64 bits, or differ in dtype or device; p that is no number.
        NotImplementedError: forward-mode differentiation, as by torch.func.jvp, and second derivatives.
        RuntimeError: gradients by torch.func, which torch itself refuses for operations of torch.library.
        ModuleNotFoundError, RuntimeError: on CUDA, Triton or the C compiler that it needs are not there.
    """
    x, w = autocast(x, w)
    check_pair("x", x, w)
    check_exponent(p)
    refuse_tangents(x=x, w=w)
    with_index = p == math.inf and torch.is_grad_enabled() and (x.requires_grad or w.requires_grad)
    y, _ = _lp_dist(x, w, float(p), with_index)
    return cast(Tensor, y)


def linf_dist_bounds(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Exact bounds of ||v - w[o]||_inf over the box lower <= v <= upper (reference for Appendix B's intervals).

        upper[b, o] = max_i max(|lower_i - w_i|, |upper_i - w_i|)
        lower[b, o] = max_i max(lower_i - w_i, w_i - upper_i, 0)

    Args:
        lower, upper: the box, [B, I] each, with lower <= upper, which is not looked at.
        w: weights [O, I].

    Returns:
        (lower, upper), [B, O] each. The differences v - w and w - v and their maxima are monotone after rounding too,
        so the executed distance of every v in the box lies between the executed bounds. Not differentiable.

    Raises:
        ValueError: shapes that do not match.
        TypeError: inputs that are no dense tensors of 16 to 64 bits, or differ in dtype or device.
        NotImplementedError: forward-mode differentiation.
        ModuleNotFoundError, RuntimeError: on CUDA, Triton or the C compiler that it needs are not there.
    """
    check_box(lower, upper, w)
    refuse_tangents(lower=lower, upper=upper, w=w)
    return cast(tuple[Tensor, Tensor], _linf_dist_bounds(lower, upper, w))


@torch.library.custom_op("linf_dist_book::lp_dist", mutates_args=())
def _lp_dist(x: Tensor, w: Tensor, p: float, with_index: bool) -> tuple[Tensor, Tensor]:
    sibling, x, w = _sibling(x, p), x.contiguous(), w.contiguous()
    if with_index:
        return sibling.lp_dist_argmax(x, w)
    return sibling.lp_dist(x, w, p), x.new_empty(0, dtype=torch.int32)


@_lp_dist.register_fake
def _(x: Tensor, w: Tensor, p: float, with_index: bool) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], w.shape[0])
    return x.new_empty(shape), x.new_empty(shape if with_index else (0,), dtype=torch.int32)


@torch.library.custom_op("linf_dist_book::lp_dist_backward", mutates_args=())
def _lp_dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    grad, x, w = grad.contiguous(), x.contiguous(), w.contiguous()
    return _sibling(x, p).lp_dist_backward(grad, x, w, y, index, p, need_x, need_w)


@_lp_dist_backward.register_fake
def _(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, index: Tensor, p: float, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if need_x else (0,)), w.new_empty(w.shape if need_w else (0,))


_lp_dist_backward.register_autograd(refuse_second_derivatives)


def _save_for_backward(
    ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, float, bool], output: tuple[Tensor, ...]
) -> None:
    x, w, p, _ = inputs
    y, index = output
    ctx.save_for_backward(x, w, y, index)
    ctx.p = p  # type: ignore[attr-defined]


def _backward(ctx: FunctionCtx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, w, y, index = ctx.saved_tensors  # type: ignore[attr-defined]
    need_x, need_w, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
    gx, gw = _lp_dist_backward(grad, x, w, y, index, ctx.p, need_x, need_w)  # type: ignore[attr-defined]
    return gx if need_x else None, gw if need_w else None, None, None


_lp_dist.register_autograd(_backward, setup_context=_save_for_backward)


@torch.library.custom_op("linf_dist_book::linf_dist_bounds", mutates_args=())
def _linf_dist_bounds(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return _sibling(lower).linf_dist_bounds(lower.contiguous(), upper.contiguous(), w.contiguous())


@_linf_dist_bounds.register_fake
def _(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    shape = (lower.shape[0], w.shape[0])
    return lower.new_empty(shape), lower.new_empty(shape)
