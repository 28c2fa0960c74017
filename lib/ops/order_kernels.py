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
def sift_greatest(low: Array, high: Array, w: Array, i: int, best: Array) -> None:
    """best[k, :] <- the k-th largest among best and max(|low_i - w_i|, |high_i - w_i|) for the next STEP inputs."""
    l0, l1, l2, l3 = low[i], low[i + 1], low[i + 2], low[i + 3]
    h0, h1, h2, h3 = high[i], high[i + 1], high[i + 2], high[i + 3]
    row = i * LANES
    for j in range(LANES):
        w0, w1, w2, w3 = w[row + j], w[row + LANES + j], w[row + 2 * LANES + j], w[row + 3 * LANES + j]
        t0 = max(abs(l0 - w0), abs(h0 - w0))
        t1 = max(abs(l1 - w1), abs(h1 - w1))
        t2 = max(abs(l2 - w2), abs(h2 - w2))
        t3 = max(abs(l3 - w3), abs(h3 - w3))
        for k in range(MOST):
            a = best[k * LANES + j]
            b, t0 = max(a, t0), min(a, t0)
            a, t1 = max(b, t1), min(b, t1)
            b, t2 = max(a, t2), min(a, t2)
            a, t3 = max(b, t3), min(b, t3)
            best[k * LANES + j] = a


@kernel()
def sift_least(low: Array, high: Array, w: Array, i: int, best: Array) -> None:
    """As `sift_greatest` with max(low_i - w_i, w_i - high_i), which counts only where it is above 0."""
    l0, l1, l2, l3 = low[i], low[i + 1], low[i + 2], low[i + 3]
    h0, h1, h2, h3 = high[i], high[i + 1], high[i + 2], high[i + 3]
    row = i * LANES
    for j in range(LANES):
        w0, w1, w2, w3 = w[row + j], w[row + LANES + j], w[row + 2 * LANES + j], w[row + 3 * LANES + j]
        t0 = max(l0 - w0, w0 - h0)
        t1 = max(l1 - w1, w1 - h1)
        t2 = max(l2 - w2, w2 - h2)
        t3 = max(l3 - w3, w3 - h3)
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
                if least:
                    sift_least(low[b], high[b], lanes[panel], i, best)
                else:
                    sift_greatest(low[b], high[b], lanes[panel], i, best)
            for k in range(out.shape[0]):
                for j in range(LANES):
                    out[k, b, panel * LANES + j] = best[k * LANES + j]


@kernel(parallel=True)
def pull(g: Array, x: Array, w: Array, values: Array, c: Array, grad: Array) -> None:
    """grad[b, i] += sum_o g[b, o] c_k sign(x_bi - w_oi), k the place of |x_bi - w_oi| among values[:, b, o].

    Equal distances take the places that they share in the order of i.
    """
    count = values.shape[0]
    for b in prange(x.shape[0]):
        taken = np.empty(count, np.bool_)
        for o in range(w.shape[0]):
            taken[:] = False
            smallest = values[count - 1, b, o]
            for i in range(x.shape[1]):
                t = x[b, i] - w[o, i]
                if abs(t) >= smallest:
                    for k in range(count):
                        if not taken[k] and values[k, b, o] == abs(t):
                            taken[k] = True
                            grad[b, i] += g[b, o] * c[k] * np.float32(np.sign(t))
                            break
