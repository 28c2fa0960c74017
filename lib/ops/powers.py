"""r^e on (0, 1] without special functions: a short polynomial and a few squarings, fitted for each exponent.

With e = q 2^k and 2 < q <= 4, r^q is smooth enough for a polynomial in r - 1 of degree 7, or less for a large e, down
to the r with r^e = 2^-32. Squaring multiplies the relative error by 2^k, about what p itself costs. A sum may hold
thousands of equal terms beside r = 1, so errors count relative to r^e down to 2^-13, and by r^e below.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DEGREE = 7
# By k: the more squarings, the shorter the interval that the polynomial is for. From 7 on the last one.
_LEAST_DEGREES = {3: 7, 4: 5, 5: 4, 6: 4, 7: 3}
# Below it the fit would be too coarse near 0.
LEAST_EXPONENT = 16.0

_BITS = 32
_NODES = 96
_LEAST_WEIGHT = 2.0**-13


class Rule(NamedTuple):
    """How a kernel raises to an exponent: squarings (-1: no fit), the least r - 1 that the fit is for, c_7 .. c_0."""

    exponent: np.float32
    squarings: int
    least: np.float32
    coefficients: NDArray[np.float32]


def rule(exponent: float) -> Rule:
    """The fit of an exponent above LEAST_EXPONENT; the others have none."""
    if exponent <= LEAST_EXPONENT:
        return Rule(np.float32(exponent), -1, np.float32(-1), np.zeros(1, np.float32))
    squarings, coefficients = fit(exponent)
    return Rule(np.float32(exponent), squarings, np.float32(least_ratio(exponent) - 1), coefficients)


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
def fit(exponent: float, degree: int = DEGREE) -> tuple[int, NDArray[np.float32]]:
    """k and c_n .. c_0, n the degree, with r^exponent = (sum_i c_i (r - 1)^i)^(2^k), r from least_ratio(exponent) to 1.

    Off by at most (exponent + 2) 2^-24, and relative to itself by at most 5 times that down to r^exponent = 2^-13.

    Raises:
        ValueError: an exponent that is not above LEAST_EXPONENT, or not finite.
    """
    if not LEAST_EXPONENT < exponent < math.inf:
        raise ValueError(f"exponent must be finite and above {LEAST_EXPONENT}, got {exponent}")
    squarings = _squarings(exponent)
    q, least = exponent / 2**squarings, least_ratio(exponent)
    r = (1 + least) / 2 + (1 - least) / 2 * np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    weight = np.maximum(r ** (exponent - q), _LEAST_WEIGHT)
    powers = np.vander(r - 1, degree + 1)
    coefficients = np.linalg.lstsq(powers * weight[:, None], r**q * weight, rcond=None)[0]
    return squarings, coefficients.astype(np.float32)


def _squarings(exponent: float) -> int:
    return math.ceil(math.log2(exponent)) - 2
