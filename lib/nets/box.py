"""A box of inputs, the object every bound starts from."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Box(NamedTuple):
    """All v with lower <= v <= upper, entrywise; both tensors share one shape [B, ...]."""

    lower: Tensor
    upper: Tensor

    def map(self, increasing: Callable[[Tensor], Tensor]) -> "Box":
        """The image under a function that is increasing in every coordinate, after rounding too."""
        return Box(increasing(self.lower), increasing(self.upper))

    @property
    def center(self) -> Tensor:
        """(upper + lower) / 2."""
        return (self.upper + self.lower) / 2

    @property
    def halfwidth(self) -> Tensor:
        """(upper - lower) / 2."""
        return (self.upper - self.lower) / 2

    @property
    def magnitude(self) -> Tensor:
        """max |v| over the box, entrywise."""
        return torch.maximum(self.lower.abs(), self.upper.abs())


def check_ends(box: Box) -> None:
    """Raises ValueError for ends of different shape, dtype or device: kernels take them for one array of pairs."""
    lower, upper = ((list(end.shape), end.dtype, str(end.device)) for end in box)
    if lower != upper:
        raise ValueError(f"box must have ends of one shape, dtype and device, got {lower} and {upper}")
