"""Numba kernels of the largest distances, float32 on the CPU; `order.py` packs the panels and calls them.

Layout: `lanes` [P, I * LANES]: panels of LANES outputs side by side, one row of LANES weights per input, inputs padded
to a multiple of STEP. No fast-math at all: every value is the executed |x - w| itself, the same in every kernel.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from lib.ops.simd import WIDTH, at_least, first_bit, load, size, splat

Array = NDArray[np.float32]
Places = NDArray[np.int32]

# Of simd.py: Numba's cache does not see changes in other files, so a test holds this to what is imported.
PARTS = "0d2a93f3816a4de6"

LANES = 16
STEP = 4  # inputs taken at a time
WORD = 64  # inputs looked at together: how often a loop ends is what a processor guesses wrong
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
def find(x: Array, w: Array, values: Array, places: Places) -> None:
    """places[b, o, k]: the input i whose distance |x_bi - w_oi| is values[k, b, o]; equal ones in the order of i.

    Inputs are padded to a multiple of WORD, those of x by NaN, which is no distance.
    """
    count = values.shape[0]
    for b in prange(x.shape[0]):
        best = np.zeros(WIDTH, np.float32)
        for o in range(w.shape[0]):
            best[:count] = values[:, b, o]
            places[b, o, :] = -1
            for begin in range(0, x.shape[1], WORD):
                word = far_inputs(x, b, w, o, begin, best[count - 1])
                while word:
                    i = begin + first_bit(word)
                    word &= word - 1
                    k = first_bit(at_least(splat(abs(x[b, i] - w[o, i])), load(best, 0)))
                    while k < count and places[b, o, k] >= 0:
                        k += 1
                    if k < count:
                        places[b, o, k] = i


@kernel()
def far_inputs(x: Array, b: int, w: Array, o: int, begin: int, least: float) -> int:
    """Which of the inputs from begin on, WORD of them, have a distance of at least `least`: bit after bit."""
    features, limit, word = x.shape[1], splat(least), 0
    for i in range(0, WORD, WIDTH):
        at = begin + i
        word |= at_least(size(load(x, b * features + at) - load(w, o * features + at)), limit) << i
    return word


@kernel(parallel=True)
def gradient_x(grad: Array, x: Array, w: Array, c: Array, places: Places, gx: Array) -> None:
    """gx[b, i] += grad[b, o] c_k sign(x_bi - w_oi) at i = places[b, o, k], in the order of o and k."""
    for b in prange(x.shape[0]):
        for o in range(w.shape[0]):
            for k in range(len(c)):
                i = places[b, o, k]
                gx[b, i] += grad[b, o] * c[k] * np.sign(x[b, i] - w[o, i])


@kernel(parallel=True)
def gradient_w(grad: Array, x: Array, w: Array, c: Array, places: Places, gw: Array) -> None:
    """gw[o, i] -= the same, in the order of b and k."""
    for o in prange(w.shape[0]):
        for b in range(x.shape[0]):
            for k in range(len(c)):
                i = places[b, o, k]
                gw[o, i] -= grad[b, o] * c[k] * np.sign(x[b, i] - w[o, i])
