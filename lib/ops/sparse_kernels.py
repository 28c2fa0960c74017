"""Numba kernels of the p = inf distance over shortlists of weights; `sparse.py` makes the lists and calls them.

A task owns a share of the tiles of LANES samples side by side, [I, LANES]: a vector instruction serves several samples,
and a weight is read once for all of them. Batches hold at least LANES samples; the last tile reaches back over the one
before it, so that all tiles are full, and samples in both get the same values twice.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from lib.ops.simd import WIDTH, larger_size, load, offset_at, splat, splat_at, store

Array = NDArray[np.float32]
Counts = NDArray[np.int64]
Indices = NDArray[np.int32]

# Of simd.py: Numba's cache does not see changes in other files, so a test holds this to what is imported.
PARTS = "b9e28f71e56ff489"

LANES = 2 * WIDTH

_CACHE_LINE = 16  # floats


@njit(cache=True, nogil=True)
def empty_tile(features: int) -> Array:
    """Room for [features, LANES], where rows of 128 bytes do not straddle cache lines."""
    room = np.empty(features * LANES + _CACHE_LINE, np.float32)
    shift = (-(room.ctypes.data // 4)) % _CACHE_LINE
    return room[shift : shift + features * LANES]


@njit(cache=True, nogil=True)
def fill_tile(x: Array, first: int, tile: Array) -> None:
    """Samples first..first + LANES of x [B, I] side by side."""
    for i in range(x.shape[1]):
        for l in range(LANES):
            tile[i * LANES + l] = x[first + l, i]


@njit(cache=True, nogil=True)
def unit_max(
    above: Array, below: Array, place: Indices, weight: Array, begin: int, middle: int, end: int, floor: np.float32
) -> Any:
    """The largest of floor >= 0, above[place] - weight up to `middle` and weight - below[place] from there on."""
    m0 = m1 = splat(floor)
    for n in range(begin, middle):
        w, at = splat_at(weight, n), offset_at(place, n)
        m0 = larger_size(m0, load(above, at) - w)
        m1 = larger_size(m1, load(above, at + WIDTH) - w)
    for n in range(middle, end):
        w, at = splat_at(weight, n), offset_at(place, n)
        m0 = larger_size(m0, w - load(below, at))
        m1 = larger_size(m1, w - load(below, at + WIDTH))
    return m0, m1


@njit(cache=True, nogil=True)
def store_shifted(pair: Any, plus: np.float32, minus: np.float32, out: Array, at: int) -> None:
    """out = (pair + plus) - minus, rounded in this order."""
    m0, m1 = pair
    store(out, at, (m0 + splat(plus)) - splat(minus))
    store(out, at + WIDTH, (m1 + splat(plus)) - splat(minus))


@njit(cache=True, nogil=True)
def tiles_of(share: int, shares: int, samples: int) -> tuple[int, int]:
    tiles = (samples + LANES - 1) // LANES
    return tiles * share // shares, tiles * (share + 1) // shares


@njit(cache=True, nogil=True, parallel=True)
def forward(
    x: Array, first: Counts, place: Indices, weight: Array, floor: Array, plus: Array, minus: Array, y: Array,
    shares: int,
) -> None:  # fmt: skip
    """y [O, B], flat, = (distance + plus) - minus for x [B, I]."""
    samples = len(x)
    for share in prange(shares):
        tile = empty_tile(x.shape[1])
        t0, t1 = tiles_of(share, shares, samples)
        for t in range(t0, t1):
            b = min(t * LANES, samples - LANES)
            fill_tile(x, b, tile)
            for o in range(len(floor)):
                begin, middle, end = first[2 * o], first[2 * o + 1], first[2 * o + 2]
                largest = unit_max(tile, tile, place, weight, begin, middle, end, floor[o])
                store_shifted(largest, plus[o], minus[o], y, o * samples + b)


@njit(cache=True, nogil=True, parallel=True)
def forward_bounds(
    lower: Array, upper: Array, first: Counts, place: Indices, weight: Array, floor: Array, plus: Array, minus: Array,
    least: Array, greatest: Array, shares: int,
) -> None:  # fmt: skip
    """The same for the least and greatest distance over boxes, [O, B] each."""
    samples = len(lower)
    for share in prange(shares):
        low, high = empty_tile(lower.shape[1]), empty_tile(lower.shape[1])
        t0, t1 = tiles_of(share, shares, samples)
        for t in range(t0, t1):
            b = min(t * LANES, samples - LANES)
            fill_tile(lower, b, low)
            fill_tile(upper, b, high)
            for o in range(len(floor)):
                begin, middle, end = first[2 * o], first[2 * o + 1], first[2 * o + 2]
                small = unit_max(low, high, place, weight, begin, middle, end, floor[o])
                large = unit_max(high, low, place, weight, begin, middle, end, floor[o])
                store_shifted(small, plus[o], minus[o], least, o * samples + b)
                store_shifted(large, plus[o], minus[o], greatest, o * samples + b)
