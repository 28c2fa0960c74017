"""Sums of what many pairs add at places of their own, on CUDA: as integers, whose sums do not depend on the order."""

import math

import torch
from torch import Tensor

from lib.ops.gpu_launch import launch

# Pulls, or sums, of a program, and its warps.
EACH, WARPS = 1024, 4
# Bits of the integers that are summed, and the one that stands for NaN.
_SUM_BITS, LOST = 61, -(2**63)


def scattered(pull: Tensor, index: Tensor, x: Tensor, w: Tensor, need_x: bool, need_w: bool) -> tuple[Tensor, Tensor]:
    """sum_ok u at each (b, index[b, o, k]), like x, and -sum_bk u at each (o, index[b, o, k]), like w, of pulls u.

    Pulls and indices (int32) are [B, O, K]. Of n terms each is rounded to 2 n 2^-60 of the largest that the same sample
    (for x) or output (for w) has; one that is not finite gives NaN. A sum that is not needed comes back empty, [0].
    """
    size = pull.abs().where(pull.isfinite(), 0)
    unit_x, unit_w = _unit(size), _unit(size.transpose(0, 1))
    sums_x, sums_w = (
        torch.zeros(like.shape if needed else (0,), dtype=torch.int64, device=x.device)
        for like, needed in ((x, need_x), (w, need_w))
    )
    for mark in (False, True):
        launch(
            "scatter_sums", pull, -(-pull.numel() // EACH), pull.contiguous(), index.contiguous(), unit_x, unit_w,
            sums_x, sums_w, *pull.shape[1:], pull.numel(), w.shape[1], NEED_X=need_x, NEED_W=need_w, MARK=mark,
            LOST=LOST, PULLS=EACH, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    grad_x = _rounded(sums_x, unit_x) if need_x else x.new_empty(0)
    return grad_x, _rounded(sums_w, unit_w) if need_w else w.new_empty(0)


def _unit(size: Tensor) -> Tensor:
    """A power of two for each row, times which all its terms, up to `size`, add up to less than 2^61; float64."""
    terms = math.prod(size.shape[1:])
    largest = size.amax((1, 2)) if size.numel() else size.sum((1, 2))
    return torch.exp2((_SUM_BITS - terms.bit_length() - torch.frexp(largest).exponent).double())


def _rounded(sums: Tensor, unit: Tensor) -> Tensor:
    rounded = torch.empty(sums.shape, dtype=torch.float32, device=sums.device)
    launch(
        "rounded_sums", sums, -(-sums.numel() // EACH), sums, unit.reciprocal(), rounded, sums.numel(), sums.shape[1],
        LOST=LOST, ENTRIES=EACH, num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return rounded
