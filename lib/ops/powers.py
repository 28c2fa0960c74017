"""r^e on (0, 1] without special functions: a short polynomial and a few squarings, fitted for each exponent.

With e = q 2^k and q at most 4, r^q is smooth enough for a polynomial in r - 1 of degree 7, or 4 or 3 above e = 32, down
to the r with r^e = 2^-32. Squaring multiplies the relative error by 2^k, about what p itself costs. A sum may hold
thousands of equal terms beside r = 1, or few, so the fit weighs errors halfway between absolute and relative down to
r^e = 2^-13.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Below it the fit would be too coarse near 0.
LEAST_EXPONENT = 14.0

# By k, from 6 on the last one: the more squarings, the shorter the interval that the polynomial is for.
_LEAST_DEGREES = {3: 7, 4: 4, 5: 4, 6: 3}
# On a CPU each degree is one more kernel to compile, and 3 saves little where most terms are left out.
_LEAST_DEGREE_ON_CPU = 4
_BITS = 32
_NODES = 96
_LEAST_WEIGHT = 2.0**-13


class Rule(NamedTuple):
    """How a kernel raises to an exponent: squarings, the least r - 1 that the fit is for, c_n .. c_0.

    Where there is no fit: 0, the least r that is told apart from 0, and one coefficient that nobody reads.
    """

    exponent: np.float32
    squarings: int
    least: np.float32
    coefficients: NDArray[np.float32]


def rule(exponent: float) -> Rule:
    """The fit of an exponent above LEAST_EXPONENT, of degree 7 or 4; the others have none."""
    if exponent <= LEAST_EXPONENT:
        return rule_without_fit(exponent)
    squarings, coefficients = fit(exponent, max(least_degree(exponent), _LEAST_DEGREE_ON_CPU))
    return Rule(np.float32(exponent), squarings, np.float32(least_ratio(exponent) - 1), coefficients)


def rule_without_fit(exponent: float) -> Rule:
    """For any exponent: logarithms and exponentials, where r^exponent is 2^-125 or more, and r 2^-126 or more."""
    return Rule(np.float32(exponent), 0, np.float32(2.0 ** (-125 / exponent)), np.zeros(1, np.float32))


def least_ratio(exponent: float) -> float:
    """The r with r^exponent = 2^-32, down to which `fit` holds."""
    return 2.0 ** (-_BITS / exponent)


def cut_ratio(exponent: float, features: int) -> float:
    """The ratio r below which all `features` terms r^exponent together are lost beside a term of 1.

    Together they are at most exponent 2^-24 of the largest, a quarter of what the gradients promise, for up to 256
    exponent features. 0, which leaves out nothing, where no polynomial is fitted.
    """
    if exponent <= LEAST_EXPONENT:
        return 0.0
    return 2.0 ** (-min(_BITS, math.log2(features / exponent) + 24) / exponent)


def least_degree(exponent: float) -> int:
    """The least degree of a fit that keeps what `fit` promises."""
    return _LEAST_DEGREES[min(_squarings(exponent), max(_LEAST_DEGREES))]


@functools.lru_cache(maxsize=1024)
def fit(exponent: float, degree: int) -> tuple[int, NDArray[np.float32]]:
    """k and c_n .. c_0, n the degree: r^exponent = (sum_i c_i (r - 1)^i)^(2^k) for r from least_ratio(exponent) to 1.

    Off by at most (exponent + 2) 2^-24, down to r^exponent = 2^-13 relative to itself but for roundings.

    Raises:
        ValueError: an exponent that is not above LEAST_EXPONENT, or not finite.
    """
    if not LEAST_EXPONENT < exponent < math.inf:
        raise ValueError(f"exponent must be finite and above {LEAST_EXPONENT}, got {exponent}")
    squarings = _squarings(exponent)
    q, least = exponent / 2**squarings, least_ratio(exponent)
    r = (1 + least) / 2 + (1 - least) / 2 * np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    weight = r ** (exponent - q) / np.sqrt(np.maximum(r**exponent, _LEAST_WEIGHT))
    powers = np.vander(r - 1, degree + 1)
    coefficients = np.linalg.lstsq(powers * weight[:, None], r**q * weight, rcond=None)[0]
    return squarings, coefficients.astype(np.float32)


def _squarings(exponent: float) -> int:
    return max(math.ceil(math.log2(exponent)) - 2, min(_LEAST_DEGREES))
