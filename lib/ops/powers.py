"""r^e on (0, 1] without special functions: a short polynomial and a few squarings, fitted for each exponent.

With e = q 2^k and 2 < q <= 4, r^q is smooth enough for a polynomial in r - 1 of degree 7 down to the r with
r^e = 2^-28; a smaller one does not count beside r = 1. Squaring multiplies the relative error by 2^k, about what p
itself costs. Errors count as they enter a sum: by r^e, so they may be larger where r^e is small.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray

DEGREE = 7
# Below it the fit would be too coarse near 0.
LEAST_EXPONENT = 4.0

_BITS = 28
_NODES = 64
# Relative errors are held down to this size of r^e, so that many small terms cannot add up to a large error.
_LEAST_WEIGHT = 2.0**-10


def least_ratio(exponent: float) -> float:
    """The r with r^exponent = 2^-28: a smaller term does not count beside the largest."""
    return 2.0 ** (-_BITS / exponent)


@functools.lru_cache(maxsize=1024)
def fit(exponent: float) -> tuple[int, NDArray[np.float32]]:
    """k and c_7 .. c_0 with r^exponent = (sum_i c_i (r - 1)^i)^(2^k) for r from least_ratio(exponent) to 1.

    Off by at most (exponent + 2) 2^-24 in all, about a quarter of what the gradients promise.

    Raises:
        ValueError: an exponent that is not above LEAST_EXPONENT, or not finite.
    """
    if not LEAST_EXPONENT < exponent < math.inf:
        raise ValueError(f"exponent must be finite and above {LEAST_EXPONENT}, got {exponent}")
    squarings = math.ceil(math.log2(exponent)) - 2
    q, least = exponent / 2**squarings, least_ratio(exponent)
    r = (1 + least) / 2 + (1 - least) / 2 * np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    weight = np.maximum(r ** (exponent - q), _LEAST_WEIGHT)
    powers = np.vander(r - 1, DEGREE + 1)
    coefficients = np.linalg.lstsq(powers * weight[:, None], r**q * weight, rcond=None)[0]
    return squarings, coefficients.astype(np.float32)
