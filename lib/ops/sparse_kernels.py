"""Numba kernels of the p = inf distance over shortlists of weights; `sparse.py` makes the lists and calls them.

A task owns a share of the tiles of LANES samples side by side: a vector instruction serves WIDTH samples, and a weight
is read once for all of them. Batches hold at least LANES samples; the last tile reaches back over the one before it, so
that all tiles are full, and samples in both get the same values.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from lib.ops.simd import WIDTH, at_least, kernel, larger_size, load, offset_at, splat_at, store, transpose

Array = NDArray[np.float32]
Counts = NDArray[np.int64]
Indices = NDArray[np.int32]

# Of simd.py: Numba's cache does not see changes in other files, so a test holds this to what is imported.
PARTS = "a128b3ef4bea1c2a"

LANES = 2 * WIDTH
# Terms between two looks at whether any later one can count.
STEP = 8
# The two lists of a unit.
ABOVE, BELOW = 0, 1

_EVERY_LANE = (1 << WIDTH) - 1
_CACHE_LINE = 16  # floats
_ONE = np.float32(1)


# -- tiles ------------------------------------------------------------------------------------------------------------


@kernel()
def empty_tile(count: int) -> Array:
    """Room for so many inputs or outputs of LANES samples, where vectors do not straddle cache lines."""
    room = np.empty(count * LANES + _CACHE_LINE, np.float32)
    shift = (-(room.ctypes.data // 4)) % _CACHE_LINE
    return room[shift : shift + count * LANES]


@kernel()
def fill_tile(x: Array, first: int, tile: Array) -> None:
    """tile[LANES i + l] = x[first + l, i] for l < LANES."""
    features = x.shape[1]
    whole = features - features % WIDTH
    for half in range(0, LANES, WIDTH):
        for i in range(0, whole, WIDTH):
            at = (first + half) * features + i
            transpose(x, at, features, WIDTH - 1, _ONE, tile, i * LANES + half, LANES)
    for i in range(whole, features):
        for l in range(LANES):
            tile[i * LANES + l] = x[first + l, i]


@kernel()
def store_tile(tile: Array, y: Array, first: int) -> None:
    """y[first + l, o] = tile[LANES o + l] for l < LANES."""
    units = y.shape[1]
    whole = units - units % WIDTH
    for half in range(0, LANES, WIDTH):
        for o in range(0, whole, WIDTH):
            at = (first + half) * units + o
            transpose(tile, o * LANES + half, LANES, WIDTH - 1, _ONE, y, at, units)
    for o in range(whole, units):
        for l in range(LANES):
            y[first + l, o] = tile[o * LANES + l]


@kernel()
def tiles_of(share: int, shares: int, samples: int) -> tuple[int, int]:
    tiles = (samples + LANES - 1) // LANES
    return tiles * share // shares, tiles * (share + 1) // shares


# -- units: inlined, since a call would count references to its arrays, which takes as long as dozens of terms --------


@kernel(inline="always")
def above(x: Any, w: Any) -> Any:
    return x - w


@kernel(inline="always")
def below(x: Any, w: Any) -> Any:
    return w - x


@kernel(inline="always")
def list_max(
    term: Callable[..., Any], tile: Array, place: Indices, weight: Array, most: Array, begin: int, end: int,
    m0: Any, m1: Any,
) -> Any:  # fmt: skip
    """The largest of m0, m1 >= 0 and all terms of the steps begin..end, for either half of a tile of inputs."""
    for step in range(begin, end):
        limit = splat_at(most, step)
        if at_least(m0, limit) & at_least(m1, limit) == _EVERY_LANE:
            break
        for n in range(step * STEP, (step + 1) * STEP):
            w, at = splat_at(weight, n), offset_at(place, n)
            m0 = larger_size(m0, term(load(tile, at), w))
            m1 = larger_size(m1, term(load(tile, at + WIDTH), w))
    return m0, m1


@kernel(inline="always")
def unit_max(
    high: Array, low: Array, begin: Counts, end: Counts, place: Indices, weight: Array, most: Array, floor: Array,
    o: int,
) -> Any:  # fmt: skip
    """The largest of floor[o], all high - w above and all w - low below, for either half of the tiles of inputs."""
    m = splat_at(floor, o)
    m0, m1 = list_max(above, high, place, weight, most, begin[o, ABOVE], end[o, ABOVE], m, m)
    return list_max(below, low, place, weight, most, begin[o, BELOW], end[o, BELOW], m0, m1)


@kernel(inline="always")
def store_shifted(pair: Any, plus: Array, minus: Array, outputs: Array, o: int) -> None:
    """Unit o of a tile of outputs: (pair + plus[o]) - minus[o], rounded in this order."""
    m0, m1 = pair
    store(outputs, o * LANES, (m0 + splat_at(plus, o)) - splat_at(minus, o))
    store(outputs, o * LANES + WIDTH, (m1 + splat_at(plus, o)) - splat_at(minus, o))


# -- batches ----------------------------------------------------------------------------------------------------------


@kernel(parallel=True)
def box_of(lower: Array, upper: Array, shares: int) -> Array:
    """The box that holds all boxes of a batch, [2, I]: its lower ends, its upper ends."""
    samples, features = lower.shape
    box = np.empty((shares, 2, features), np.float32)
    for share in prange(shares):
        box[share, 0], box[share, 1] = np.inf, -np.inf
        for b in range(samples * share // shares, samples * (share + 1) // shares):
            for i in range(features):
                box[share, 0, i] = min(box[share, 0, i], lower[b, i])
                box[share, 1, i] = max(box[share, 1, i], upper[b, i])
    for share in range(1, shares):
        box[0, 0] = np.minimum(box[0, 0], box[share, 0])
        box[0, 1] = np.maximum(box[0, 1], box[share, 1])
    return box[0]


@kernel(parallel=True)
def narrow(
    begin: Counts, end: Counts, place: Indices, weight: Array, floor: Array, box: Array, new_end: Counts,
    new_place: Indices, new_weight: Array, new_most: Array, shares: int,
) -> None:  # fmt: skip
    """The terms that can exceed the floor of their unit for inputs in the box [2, I], in their order, from begin on."""
    reach = np.empty(len(weight), np.float32)
    for share in prange(shares):
        for o in range(len(floor) * share // shares, len(floor) * (share + 1) // shares):
            for side, sign in ((ABOVE, np.float32(1)), (BELOW, np.float32(-1))):
                # unsigned: of an index that could be negative, Numba asks every time whether it is
                kept, least_distance = np.uint64(begin[o, side] * STEP), floor[o]
                for n in range(kept, np.uint64(end[o, side] * STEP)):
                    at, w = place[n], weight[n]
                    now = sign * (box[1 - side, np.uint64(at) // np.uint64(LANES)] - w)
                    new_place[kept], new_weight[kept], reach[kept] = at, w, now  # overwritten unless it counts
                    kept += np.uint64(now > least_distance)
                new_end[o, side] = (kept + np.uint64(STEP - 1)) // np.uint64(STEP)
                last = kept - np.uint64(1)
                for n in range(kept, np.uint64(new_end[o, side] * STEP)):
                    new_place[n], new_weight[n], reach[n] = new_place[last], new_weight[last], reach[last]
                largest = np.float32(0)
                for step in range(new_end[o, side] - 1, begin[o, side] - 1, -1):
                    for n in range(step * STEP, (step + 1) * STEP):
                        largest = max(largest, reach[n])
                    new_most[step] = largest


@kernel(parallel=True)
def forward(
    x: Array, begin: Counts, end: Counts, place: Indices, weight: Array, most: Array, floor: Array, plus: Array,
    minus: Array, y: Array, shares: int,
) -> None:  # fmt: skip
    """y [B, O] = (distance + plus) - minus for x [B, I]."""
    samples = len(x)
    for share in prange(shares):
        inputs, outputs = empty_tile(x.shape[1]), empty_tile(len(floor))
        t0, t1 = tiles_of(share, shares, samples)
        for t in range(t0, t1):
            b = min(t * LANES, samples - LANES)
            fill_tile(x, b, inputs)
            for o in range(len(floor)):
                largest = unit_max(inputs, inputs, begin, end, place, weight, most, floor, o)
                store_shifted(largest, plus, minus, outputs, o)
            store_tile(outputs, y, b)


@kernel(parallel=True)
def forward_bounds(
    lower: Array, upper: Array, begin: Counts, end: Counts, place: Indices, weight: Array, most: Array, floor: Array,
    plus: Array, minus: Array, least: Array, greatest: Array, shares: int,
) -> None:  # fmt: skip
    """The same for the least and greatest distance over boxes, [B, O] each."""
    samples = len(lower)
    for share in prange(shares):
        low, high = empty_tile(lower.shape[1]), empty_tile(lower.shape[1])
        small, large = empty_tile(len(floor)), empty_tile(len(floor))
        t0, t1 = tiles_of(share, shares, samples)
        for t in range(t0, t1):
            b = min(t * LANES, samples - LANES)
            fill_tile(lower, b, low)
            fill_tile(upper, b, high)
            for o in range(len(floor)):
                shortest = unit_max(low, high, begin, end, place, weight, most, floor, o)
                longest = unit_max(high, low, begin, end, place, weight, most, floor, o)
                store_shifted(shortest, plus, minus, small, o)
                store_shifted(longest, plus, minus, large, o)
            store_tile(small, least, b)
            store_tile(large, greatest, b)
