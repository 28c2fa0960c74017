"""Weighted order statistics of distances, the neuron of SortNet (NeurIPS 2022): operations, autograd, reference.

    y[b, o] = sum_k c_k t_(k),  t_(1) >= t_(2) >= ... the sorted distances |x_bi - w_oi|,  c >= 0

float32 on the CPU runs Numba kernels, anything else plain PyTorch, a few samples at a time. The terms are added in the
order of k, each product and each sum rounded, so that the executed y is increasing in every distance and the executed
bounds hold for it.
"""

from types import ModuleType
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from lib.ops.compiled import ready

_TILE_ELEMENTS = 1 << 24


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
        ValueError: shapes that do not match, or K outside 1..I.
        TypeError: inputs that are not floating point, or differ in dtype or device.
    """
    _check("x", x, w, c)
    y, _ = _sort_dist(x, w, c)
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
        ValueError, TypeError: as `sort_dist`.
    """
    _check("lower", lower, w, c)
    _check("upper", upper, w, c)
    if lower.shape != upper.shape:
        raise ValueError(f"lower and upper must agree in shape, got {list(lower.shape)} and {list(upper.shape)}")
    lower, upper, w = lower.detach(), upper.detach(), w.detach()
    least, greatest = (_largest(lower, upper, w, len(c), least=least) for least in (True, False))
    return _weighted(least, c), _weighted(greatest, c)


def _check(name: str, x: Tensor, w: Tensor, c: Tensor) -> None:
    if x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[1]:
        raise ValueError(
            f"{name} [B, I] and w [O, I] must be matrices with the same number of features, "
            f"got {list(x.shape)} and {list(w.shape)}"
        )
    if c.dim() != 1 or not 1 <= len(c) <= x.shape[1]:
        raise ValueError(f"c must be [K] with 1 <= K <= {x.shape[1]}, the number of features, got {list(c.shape)}")
    kinds = {(t.dtype, t.device) for t in (x, w, c)}
    if len(kinds) > 1 or not x.dtype.is_floating_point:
        raise TypeError(f"{name}, w and c must share one floating dtype and one device, got {sorted(map(str, kinds))}")


def _weighted(values: Tensor, c: Tensor) -> Tensor:
    """sum_k c_k values[k], [K, B, O] -> [B, O], in the order of k."""
    y = values[0] * c[0]
    for k in range(1, len(c)):
        y = y + values[k] * c[k]
    return y


def _largest(lower: Tensor, upper: Tensor, w: Tensor, count: int, *, least: bool) -> Tensor:
    """The `count` largest distances [K, B, O], in falling order, each at its least or its greatest over the box."""
    if not _has_kernel(lower, upper, w) or count > _kernels().MOST:
        tiles = [_largest_of_tile(*box, w, count, least) for box in _tiles(lower, upper, w)]
        return torch.cat(tiles, 1) if tiles else lower.new_empty(count, 0, len(w))
    lanes = _lanes(w)
    values = lower.new_empty(count, len(lower), lanes.shape[0] * _kernels().LANES)
    _kernels().largest(_padded(lower), _padded(upper), lanes.numpy(), least, values.numpy())
    return values[:, :, : len(w)]


def _largest_of_tile(lower: Tensor, upper: Tensor, w: Tensor, count: int, least: bool) -> Tensor:
    from_low, from_high = lower[:, None] - w, upper[:, None] - w
    ends = (from_low, -from_high) if least else (from_low.abs(), from_high.abs())
    return torch.maximum(*ends).clamp_(min=0).topk(count, -1).values.movedim(-1, 0)


def _pull(grad: Tensor, x: Tensor, w: Tensor, values: Tensor, c: Tensor) -> Tensor:
    """The gradient of sum_bo grad_bo y_bo in x, [B, I]; with grad, x, w and values turned over, that in w."""
    out = torch.zeros_like(x)
    if _has_kernel(x, w, grad):
        arrays = (t.contiguous().numpy() for t in (grad, x, w, values, c))
        _kernels().pull(*arrays, out.numpy())
        return out
    done = 0
    for part, g in zip(_tiles(x, x, w), grad.split(_rows(w)), strict=True):
        t = part[0][:, None] - w
        at = t.abs().topk(len(c), -1).indices
        share = g[..., None] * c * t.gather(-1, at).sign()
        out[done : done + len(g)].scatter_add_(1, at.flatten(1), share.flatten(1))
        done += len(g)
    return out


def _rows(w: Tensor) -> int:
    return max(1, _TILE_ELEMENTS // max(1, w.numel()))


def _tiles(lower: Tensor, upper: Tensor, w: Tensor) -> list[tuple[Tensor, Tensor]]:
    rows = _rows(w)
    return list(zip(lower.split(rows), upper.split(rows), strict=True)) if len(lower) else []


def _has_kernel(*inputs: Tensor) -> bool:
    # maxima in the kernels would lose a NaN; empty inputs have nothing to gain
    return all(t.device.type == "cpu" and t.dtype is torch.float32 for t in inputs) and all(
        t.numel() and bool(torch.isfinite(t).all()) for t in inputs
    )


def _lanes(w: Tensor) -> Tensor:
    """[O, I] -> [P, I * LANES], padded with zeros."""
    k = _kernels()
    padded = F.pad(w, (0, -w.shape[1] % k.STEP, 0, -len(w) % k.LANES))
    return padded.view(-1, k.LANES, padded.shape[1]).transpose(1, 2).flatten(1).contiguous()


def _padded(x: Tensor) -> object:
    return F.pad(x, (0, -x.shape[1] % _kernels().STEP)).contiguous().numpy()


def _kernels() -> ModuleType:
    return ready("order_kernels")


@torch.library.custom_op("linf_dist_book::sort_dist", mutates_args=())
def _sort_dist(x: Tensor, w: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    values = _largest(x, x, w, len(c), least=False)
    return _weighted(values, c), values.contiguous()


@_sort_dist.register_fake
def _(x: Tensor, w: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x), len(w)), x.new_empty(len(c), len(x), len(w))


@torch.library.custom_op("linf_dist_book::sort_dist_backward", mutates_args=())
def _sort_dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, values: Tensor, c: Tensor, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    return (
        _pull(grad, x, w, values, c) if need_x else x.new_empty(0),
        _pull(grad.T, w, x, values.transpose(1, 2), c) if need_w else w.new_empty(0),
    )


@_sort_dist_backward.register_fake
def _(
    grad: Tensor, x: Tensor, w: Tensor, values: Tensor, c: Tensor, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if need_x else (0,)), w.new_empty(w.shape if need_w else (0,))


def _save_for_backward(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: FunctionCtx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
    x, w, c, values = ctx.saved_tensors  # type: ignore[attr-defined]
    need_x, need_w, _need_c = ctx.needs_input_grad  # type: ignore[attr-defined]
    gx, gw = _sort_dist_backward(grad, x, w, values, c, need_x, need_w)
    return gx if need_x else None, gw if need_w else None, None


_sort_dist.register_autograd(_backward, setup_context=_save_for_backward)
