"""Matrices filled up to whole blocks for the kernels, and what is left of them afterwards."""

import torch.nn.functional as F
from torch import Tensor


def padded(a: Tensor, rows: int, cols: int, value: float = 0.0) -> Tensor:
    """Filled up to multiples of so many rows and columns; contiguous, a itself where nothing is missing.

    Zeros on both sides of a distance do not change it.
    """
    rows, cols = -a.shape[0] % rows, -a.shape[1] % cols
    return F.pad(a, (0, cols, 0, rows), value=value) if rows or cols else a.contiguous()


def cropped(a: Tensor, rows: int, cols: int) -> Tensor:
    """The first so many rows and columns, contiguous."""
    return a[:rows, :cols].contiguous()
