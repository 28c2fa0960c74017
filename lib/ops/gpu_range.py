"""Powers of two that keep distances, their powers and their inverses in the range of float32; exact to multiply by.

All are tensors, so that nothing waits for the device.
"""

import math

import torch
from torch import Tensor

# No sum of powers reaches 2^_SUM_BITS.
_SUM_BITS = 126
# A lift brings the largest input near 2^100, where no distance overflows yet. A factor has an inverse up to 2^126.
_LIFTED_BITS, _MOST_BITS = 100, 126
# What stands for infinity in a ratio: it has an inverse, and two of them on either side of 0 are infinitely apart.
FAR = 2.0**127
_LARGEST_FLOAT = torch.finfo(torch.float32).max


def exponent(x: Tensor, w: Tensor) -> Tensor:
    """The least n with |x|, |w| < 2^n in all rows that are finite: distances of the others are infinite or NaN."""
    return torch.frexp(torch.maximum(_largest(x), _largest(w))).exponent


def sum_factor(exponent: Tensor, features: int, p: float) -> Tensor:
    """What puts sums of so many |t|^p high in the range, where no distance reaches 2^(exponent + 1)."""
    return power_of_two(math.floor((_SUM_BITS - math.log2(features)) / p) - 1 - exponent)


def lift(exponent: Tensor) -> Tensor:
    """At least 1, and then the inverse of a distance below 2^-126 is a float32.

    Beside inputs beyond 2^77 the inverses of the smallest stay clamped.
    """
    return power_of_two(_lift_bits(exponent))


def ratio_factor(exponent: Tensor, infinite: Tensor, p: float) -> Tensor:
    """A lift for the backward at p > 1, where what is infinite counts as `FAR`, and everything finite is less.

    Where a distance is infinite, finite ones to the power p - 1 are next to nothing beside it.
    """
    bits = torch.where(exponent > _MOST_BITS, -2, _lift_bits(exponent))
    room = max(0, math.floor(math.log2(FAR) - 26 / (p - 1)))
    return power_of_two(torch.where(infinite, torch.minimum(bits, room - exponent), bits))


def power_of_two(bits: Tensor) -> Tensor:
    """2^bits, from 2^-126 to 2^126."""
    return torch.exp2(bits.clamp(-_MOST_BITS, _MOST_BITS).double()).float()


def reciprocal(y: Tensor) -> Tensor:
    """1 / y, and the largest float for 0: 0 times infinity would be NaN."""
    return y.reciprocal().clamp_(max=_LARGEST_FLOAT)


def _lift_bits(exponent: Tensor) -> Tensor:
    return (_LIFTED_BITS - exponent).clamp(min=0)


def _largest(a: Tensor) -> Tensor:
    sizes = torch.linalg.vector_norm(a, math.inf, dim=1)
    return sizes.nan_to_num_(0, 0).amax() if len(a) else a.new_zeros(())
