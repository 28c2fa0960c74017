"""Numba kernels of the largest distances, float32 on the CPU; `order.py` packs the panels and calls them.

Layout: `lanes` [P, I * LANES]: panels of LANES outputs side by side, one row of LANES weights per input, inputs padded
to a multiple of STEP. No fast-math at all: every value is the executed |x - w| itself, the same in every kernel.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Array = NDArray[np.float32]

LANES = 16
STEP = 4  # inputs taken at a time
MOST = 10  # order statistics kept; a constant, so that the compiler keeps the loops over them straight

_ZERO = np.float32(0)


def kernel(**options: Any) -> Any:
    """njit as all kernels here are compiled."""
    return njit(cache=True, nogil=True, **options)


@kernel()
def distance(low: float, high: float, w: float, least: bool) -> float:
    """The least (where it is below 0, the distance is 0) or the greatest |v - w| over low <= v <= high."""
    return max(low - w, w - high) if least else max(abs(low - w), abs(high - w))


@kernel()
def sift(low: Array, high: Array, w: Array, i: int, least: bool, best: Array) -> None:
    """best[k, :] <- the k-th largest among best and the distances of the next STEP inputs."""
    l0, l1, l2, l3 = low[i], low[i + 1], low[i + 2], low[i + 3]
    h0, h1, h2, h3 = high[i], high[i + 1], high[i + 2], high[i + 3]
    row = i * LANES
    for j in range(LANES):
        t0 = distance(l0, h0, w[row + j], least)
        t1 = distance(l1, h1, w[row + LANES + j], least)
        t2 = distance(l2, h2, w[row + 2 * LANES + j], least)
        t3 = distance(l3, h3, w[row + 3 * LANES + j], least)
        for k in range(MOST):
            a = best[k * LANES + j]
            b, t0 = max(a, t0), min(a, t0)
            a, t1 = max(b, t1), min(b, t1)
            b, t2 = max(a, t2), min(a, t2)
            a, t3 = max(b, t3), min(b, t3)
            best[k * LANES + j] = a


@kernel(parallel=True)
def largest(low: Array, high: Array, lanes: Array, least: bool, out: Array) -> None:
    """out[k, b, o]: the k-th largest distance, at its least or its greatest over the box; out is [K, B, P * LANES]."""
    for b in prange(low.shape[0]):
        best = np.empty(MOST * LANES, np.float32)
        for panel in range(lanes.shape[0]):
            best[:] = _ZERO
            for i in range(0, low.shape[1], STEP):
                sift(low[b], high[b], lanes[panel], i, least, best)
            for k in range(out.shape[0]):
                for j in range(LANES):
                    out[k, b, panel * LANES + j] = best[k * LANES + j]


@kernel(parallel=True)
def find(x: Array, w: Array, values: Array, places: NDArray[np.int32]) -> None:
    """places[b, o, k]: the input i whose distance |x_bi - w_oi| is values[k, b, o]; equal ones in the order of i."""
    count = values.shape[0]
    for b in prange(x.shape[0]):
        large = np.empty(x.shape[1], np.int32)
        for o in range(w.shape[0]):
            smallest, found = values[count - 1, b, o], 0
            for i in range(x.shape[1]):
                large[found] = i  # overwritten unless it counts: a branch would be guessed wrong
                found += abs(x[b, i] - w[o, i]) >= smallest
            places[b, o, :] = -1
            for i in large[:found]:
                t = abs(x[b, i] - w[o, i])
                for k in range(count):
                    if places[b, o, k] < 0 and values[k, b, o] == t:
                        places[b, o, k] = i
                        break
