"""Numba kernels of the largest distances, float32 on the CPU; layouts and tasks as in `tiles.py`.

No fast-math at all: every value is the executed |x - w| itself, the same in every kernel.
"""

from typing import Any

import numpy as np
from numba import prange

from lib.ops.cpu_shapes import MOST_LARGEST, WIDTH, WORD, Grid
from lib.ops.kernels.simd import (
    aligned,
    at_least,
    first_bit,
    kernel,
    larger,
    larger_size,
    load,
    size,
    smaller_size,
    splat,
    splat_at,
    store,
    zeros,
)
from lib.ops.kernels.tiles import ONE, ZERO, Array, Indices, panel_of, stripe_of

# As in tiles.py.
BUILT_ON = "ede67b7f7029f743"

STEP = 4  # inputs taken at a time


@kernel()
def distance(low: Array, high: Array, at: int, lanes: Array, row: int, least: bool) -> Any:
    """The least or greatest |v - w| over low <= v <= high, an input beside 16 outputs; a least below 0 stands for 0."""
    l, h, w = splat_at(low, at), splat_at(high, at), load(lanes, row)
    return larger(l - w, w - h) if least else larger_size(size(l - w), size(h - w))


@kernel()
def sift(low: Array, high: Array, at: int, lanes: Array, row: int, least: bool, best: Array) -> None:
    """best[k, :] <- the k-th largest among best and the distances of the next STEP inputs."""
    t0 = distance(low, high, at, lanes, row, least)
    t1 = distance(low, high, at + 1, lanes, row + WIDTH, least)
    t2 = distance(low, high, at + 2, lanes, row + 2 * WIDTH, least)
    t3 = distance(low, high, at + 3, lanes, row + 3 * WIDTH, least)
    for k in range(MOST_LARGEST):
        a = load(best, k * WIDTH)
        b, t0 = larger_size(a, t0), smaller_size(a, t0)
        a, t1 = larger_size(b, t1), smaller_size(b, t1)
        b, t2 = larger_size(a, t2), smaller_size(a, t2)
        a, t3 = larger_size(b, t3), smaller_size(b, t3)
        store(best, k * WIDTH, a)


@kernel(parallel=True)
def largest(
    low: Array, high: Array, w: Array, least: bool, count: int, out: Array, grid: Grid
) -> None:  # fmt: skip
    """out[k, b, o]: the k-th largest distance, k < count, the least or greatest of a box; out [count, B, P WIDTH]."""
    stripes, samples, features, panels, _ = grid
    for task in prange(panels * stripes):
        q, b0, b1 = stripe_of(task, grid)
        lanes, best = panel_of(w, q, ONE, grid), aligned(MOST_LARGEST * WIDTH)
        for b in range(b0, b1):
            best[:] = ZERO
            for i in range(0, features, STEP):
                sift(low, high, b * features + i, lanes, i * WIDTH, least, best)
            for k in range(count):
                store(out, ((k * samples + b) * panels + q) * WIDTH, load(best, k * WIDTH))


@kernel(parallel=True)
def find(x: Array, w: Array, values: Array, places: Indices) -> None:
    """places[b, o, k]: the input i whose distance |x_bi - w_oi| is values[k, b, o]; equal ones in the order of i.

    Inputs are padded to a multiple of WORD, those of x by NaN, which is no distance.
    """
    count = values.shape[0]
    for b in prange(x.shape[0]):
        best = zeros(WIDTH)
        for o in range(w.shape[0]):
            best[:count] = values[:, b, o]
            places[b, o, :] = -1
            for begin in range(0, x.shape[1], WORD):
                word = far_inputs(x, b, w, o, begin, best[count - 1])
                while word:
                    i = begin + first_bit(word)
                    word &= word - 1
                    # lanes from `count` on hold 0, so some bit is set
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
def gradient(grad: Array, x: Array, w: Array, c: Array, places: Indices, gx: Array) -> None:
    """gx[b, i] += grad[b, o] c_k sign(x_bi - w_oi) at i = places[b, o, k], in the order of o and k."""
    for b in prange(x.shape[0]):
        for o in range(w.shape[0]):
            for k in range(len(c)):
                i = places[b, o, k]
                gx[b, i] += grad[b, o] * c[k] * np.sign(x[b, i] - w[o, i])
