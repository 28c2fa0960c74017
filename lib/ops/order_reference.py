"""The largest distances in plain PyTorch: any dtype, any device, a few samples at a time. Signatures of the siblings.

`order_cpu.py` and `order_gpu.py` compute the same values bit for bit, of inputs without NaN.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Distances made at a time, three copies of them at most: a GPU has memory for more of them than a CPU can sort at once.
_CPU_TILE, _GPU_TILE = 1 << 24, 1 << 28


def largest(lower: Tensor, upper: Tensor, w: Tensor, count: int, *, least: bool) -> Tensor:
    """The `count` largest distances [K, B, O] in falling order, each at its least or its greatest over the box."""
    return _largest(lower, upper, w, count, least)[0]


def largest_with_places(x: Tensor, w: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest distances [K, B, O] in falling order, and their inputs [B, O, K], int32."""
    return _largest(x, x, w, count, least=True)  # over a point: the end of fewer operations


def gradients(
    grad: Tensor, x: Tensor, w: Tensor, c: Sequence[float], places: Tensor, need_x: bool, need_w: bool
) -> tuple[Tensor, Tensor]:
    """sum_ok u at places i of x [B, I], and -sum_bk u at those of w [O, I], u[b, o, k] = grad_bo c_k sign(x_bi - w_oi).

    One that is not needed comes back empty, [0].
    """
    at = places.long()
    share = pulls(grad, x, w, c, at)
    return (
        _gathered(share, at, x) if need_x else x.new_empty(0),
        _gathered(-share.transpose(0, 1), at.transpose(0, 1), w) if need_w else w.new_empty(0),
    )


def pulls(grad: Tensor, x: Tensor, w: Tensor, c: Sequence[float], at: Tensor) -> Tensor:
    """grad_bo c_k sign(x_bi - w_oi) at i = at[b, o, k], int64; [B, O, K]."""
    t = x[:, None].take_along_dim(at, 2) - w[None].take_along_dim(at, 2)
    # not grad[..., None] * tensor(c): numbers on their way to a GPU would be waited for
    return torch.stack([grad * each for each in c], -1) * t.sign_()


def _largest(lower: Tensor, upper: Tensor, w: Tensor, count: int, least: bool) -> tuple[Tensor, Tensor]:
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


def _gathered(share: Tensor, at: Tensor, like: Tensor) -> Tensor:
    """[B, O, K] -> [B, I], each share added up at its place."""
    return like.new_zeros(like.shape).scatter_add_(1, at.flatten(1), share.flatten(1))
