"""Numba kernels of the p = inf distance over shortlists of weights; `sparse.py` makes the lists and calls them.

A task owns a share of the tiles of LANES samples side by side: a vector instruction serves WIDTH samples, and a weight
is read once for all of them. A tile holds the signed inputs x_0, x_1, .., -x_0, -x_1, .. of the first WIDTH samples and
then those of the others, so that one subtraction makes a term, whatever its sign. Batches hold at least LANES samples;
the last tile reaches back over the one before it, so that all tiles are full, and samples in both get the same values.
"""

from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from lib.ops.simd import WIDTH, at_least, kernel, larger_size, load, offset_at, splat, splat_at, store, transpose

Array = NDArray[np.float32]
Counts = NDArray[np.int64]
Indices = NDArray[np.int32]

# Of simd.py: Numba's cache does not see changes in other files, so a test holds this to what is imported.
PARTS = "a128b3ef4bea1c2a"

LANES = 2 * WIDTH
# Terms between two looks at whether any later one can count.
STEP = 8

_EVERY_LANE = (1 << WIDTH) - 1
_CACHE_LINE = 16  # floats
_PLUS, _MINUS = np.float32(1), np.float32(-1)


@kernel()
def empty_tile(features: int) -> Array:
    """Room for the signed inputs, where vectors do not straddle cache lines."""
    count = 2 * features * LANES
    room = np.empty(count + _CACHE_LINE, np.float32)
    shift = (-(room.ctypes.data // 4)) % _CACHE_LINE
    return room[shift : shift + count]


@kernel()
def fill_tile(plus: Array, minus: Array, first: int, tile: Array) -> None:
    """Samples first..first + LANES: the inputs `plus` [B, I], then the inputs `minus` [B, I] with the other sign."""
    features = plus.shape[1]
    for half in range(0, LANES, WIDTH):
        begin = 2 * features * half
        fill_half(plus, first + half, _PLUS, tile, begin)
        fill_half(minus, first + half, _MINUS, tile, begin + features * WIDTH)


@kernel()
def fill_half(x: Array, first: int, sign: np.float32, tile: Array, begin: int) -> None:
    """tile[begin + WIDTH i + l] = sign x[first + l, i] for l < WIDTH."""
    features = x.shape[1]
    whole = features - features % WIDTH
    for i in range(0, whole, WIDTH):
        transpose(x, first * features + i, features, WIDTH - 1, sign, tile, begin + i * WIDTH, WIDTH)
    for i in range(whole, features):
        for l in range(WIDTH):
            tile[begin + i * WIDTH + l] = sign * x[first + l, i]


@kernel()
def unit_max(
    tile: Array, half: int, place: Indices, weight: Array, most: Array, begin: int, end: int, floor: np.float32
) -> Any:
    """The largest of floor >= 0 and all weight - tile[place] of the steps begin..end, in both halves of the tile."""
    m0 = m1 = splat(floor)
    for step in range(begin, end):
        limit = splat_at(most, step)
        if at_least(m0, limit) & at_least(m1, limit) == _EVERY_LANE:
            break
        for n in range(step * STEP, (step + 1) * STEP):
            w, at = splat_at(weight, n), offset_at(place, n)
            m0 = larger_size(m0, w - load(tile, at))
            m1 = larger_size(m1, w - load(tile, at + half))
    return m0, m1


@kernel()
def store_shifted(pair: Any, plus: np.float32, minus: np.float32, columns: Array, unit: int) -> None:
    """columns[h, unit] = (pair_h + plus) - minus, rounded in this order."""
    m0, m1 = pair
    store(columns, unit * WIDTH, (m0 + splat(plus)) - splat(minus))
    store(columns, columns.shape[1] + unit * WIDTH, (m1 + splat(plus)) - splat(minus))


@kernel()
def store_samples(columns: Array, y: Array, first: int) -> None:
    """y[first + WIDTH h + l, o] = columns[h, WIDTH o + l] for both halves h."""
    units = y.shape[1]
    whole = units - units % WIDTH
    for half in range(2):
        b, begin = first + half * WIDTH, half * columns.shape[1]
        for o in range(0, whole, WIDTH):
            transpose(columns, begin + o * WIDTH, WIDTH, WIDTH - 1, _PLUS, y, b * units + o, units)
        for o in range(whole, units):
            for l in range(WIDTH):
                y[b + l, o] = columns[half, o * WIDTH + l]


@kernel()
def tiles_of(share: int, shares: int, samples: int) -> tuple[int, int]:
    tiles = (samples + LANES - 1) // LANES
    return tiles * share // shares, tiles * (share + 1) // shares


@kernel(parallel=True)
def signed_least(lower: Array, upper: Array, shares: int) -> Array:
    """What each signed input is at least in all boxes of the batch, [2 I]."""
    samples, features = lower.shape
    least = np.full((shares, 2 * features), np.inf, np.float32)
    for share in prange(shares):
        for b in range(samples * share // shares, samples * (share + 1) // shares):
            for i in range(features):
                least[share, i] = min(least[share, i], lower[b, i])
                least[share, features + i] = min(least[share, features + i], -upper[b, i])
    for share in range(1, shares):
        least[0] = np.minimum(least[0], least[share])
    return least[0]


@kernel(parallel=True)
def narrow(
    begin: Counts, end: Counts, place: Indices, weight: Array, floor: Array, least: Array,
    new_end: Counts, new_place: Indices, new_weight: Array, new_most: Array, shares: int,
) -> None:  # fmt: skip
    """The terms that exceed the floor of their unit where a signed input is `least`, in their order, from begin on."""
    reach = np.empty(len(weight), np.float32)
    for share in prange(shares):
        for o in range(len(floor) * share // shares, len(floor) * (share + 1) // shares):
            # unsigned: of an index that could be negative, Numba asks every time whether it is
            kept, least_distance = np.uint64(begin[o] * STEP), floor[o]
            for n in range(kept, np.uint64(end[o] * STEP)):
                at, w = place[n], weight[n]
                now = w - least[np.uint64(at) // np.uint64(WIDTH)]
                new_place[kept], new_weight[kept], reach[kept] = at, w, now  # overwritten unless it counts
                kept += np.uint64(now > least_distance)
            new_end[o] = (kept + np.uint64(STEP - 1)) // np.uint64(STEP)
            last = kept - np.uint64(1)
            for n in range(kept, np.uint64(new_end[o] * STEP)):
                new_place[n], new_weight[n], reach[n] = new_place[last], new_weight[last], reach[last]
            largest = np.float32(0)
            for step in range(new_end[o] - 1, begin[o] - 1, -1):
                for n in range(step * STEP, (step + 1) * STEP):
                    largest = max(largest, reach[n])
                new_most[step] = largest


@kernel(parallel=True)
def forward(
    x: Array, begin: Counts, end: Counts, place: Indices, weight: Array, most: Array, floor: Array, plus: Array,
    minus: Array, y: Array, shares: int,
) -> None:  # fmt: skip
    """y [B, O] = (distance + plus) - minus for x [B, I]."""
    samples, half = len(x), 2 * x.shape[1] * WIDTH
    for share in prange(shares):
        tile, columns = empty_tile(x.shape[1]), np.empty((2, len(floor) * WIDTH), np.float32)
        t0, t1 = tiles_of(share, shares, samples)
        for t in range(t0, t1):
            b = min(t * LANES, samples - LANES)
            fill_tile(x, x, b, tile)
            for o in range(len(floor)):
                largest = unit_max(tile, half, place, weight, most, begin[o], end[o], floor[o])
                store_shifted(largest, plus[o], minus[o], columns, o)
            store_samples(columns, y, b)


@kernel(parallel=True)
def forward_bounds(
    lower: Array, upper: Array, begin: Counts, end: Counts, place: Indices, weight: Array, most: Array, floor: Array,
    plus: Array, minus: Array, least: Array, greatest: Array, shares: int,
) -> None:  # fmt: skip
    """The same for the least and greatest distance over boxes, [B, O] each."""
    samples, half = len(lower), 2 * lower.shape[1] * WIDTH
    for share in prange(shares):
        near, far = empty_tile(lower.shape[1]), empty_tile(lower.shape[1])
        small, large = np.empty((2, len(floor) * WIDTH), np.float32), np.empty((2, len(floor) * WIDTH), np.float32)
        t0, t1 = tiles_of(share, shares, samples)
        for t in range(t0, t1):
            b = min(t * LANES, samples - LANES)
            fill_tile(upper, lower, b, near)  # the least of w - x and x - w
            fill_tile(lower, upper, b, far)
            for o in range(len(floor)):
                shortest = unit_max(near, half, place, weight, most, begin[o], end[o], floor[o])
                longest = unit_max(far, half, place, weight, most, begin[o], end[o], floor[o])
                store_shifted(shortest, plus[o], minus[o], small, o)
                store_shifted(longest, plus[o], minus[o], large, o)
            store_samples(small, least, b)
            store_samples(large, greatest, b)
