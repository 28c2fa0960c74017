"""A box of inputs, the object every bound starts from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.ops.checks import check_tensors


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


def check_ends(box: Any) -> None:
    """Refuse what is no box, or one whose ends kernels would not take for one array of pairs.

    Raises:
        TypeError: what is no `Box`, or ends that are no tensors.
        ValueError: ends of different shape, dtype or device.
    """
    if not isinstance(box, Box):
        raise TypeError(f"box must be a Box of lower and upper, got {type(box).__name__}")
    check_tensors(lower=box.lower, upper=box.upper)
    lower, upper = ((list(end.shape), end.dtype, str(end.device)) for end in box)
    if lower != upper:
        raise ValueError(f"box must have ends of one shape, dtype and device, got {lower} and {upper}")
