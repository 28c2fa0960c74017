"""Numba kernels of the p = inf distance over shortlists of weights; `sparse.py` calls them.

A task owns a share of the tiles of LANES samples side by side: a vector instruction serves WIDTH samples, and a weight
is read once for all of them. Batches hold at least LANES samples; the last tile reaches back over the one before it, so
that all tiles are full, and samples in both get the same values.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from lib.ops.cpu_shapes import WIDTH
from lib.ops.kernels.simd import (
    aligned,
    at_least,
    kernel,
    larger_size,
    load,
    offset_at,
    size,
    splat,
    splat_at,
    store,
    transpose,
)
from lib.ops.shortlists import LANES, STEP, Shortlists

Array = NDArray[np.float32]
Counts = NDArray[np.int64]

# As in tiles.py.
BUILT_ON = "d90a55f23187be44"

# From so many samples on, shorter lists repay the look at every term.
MANY = 256
# The two lists of a unit.
ABOVE, BELOW = 0, 1

_EVERY_LANE = (1 << WIDTH) - 1
_ZERO, _ONE = np.float32(0), np.float32(1)


# -- tiles ------------------------------------------------------------------------------------------------------------


@kernel()
def fill_tile(x: Array, first: int, mean: Array, std: Array, tile: Array) -> None:
    """tile[LANES i + l] = (x[first + l, i] - mean[i]) / std[i] for l < LANES."""
    features = x.shape[1]
    whole = features - features % WIDTH
    for third in range(0, LANES, WIDTH):
        for i in range(0, whole, WIDTH):
            at = (first + third) * features + i
            transpose(x, at, features, WIDTH - 1, _ONE, tile, i * LANES + third, LANES)
    for i in range(whole, features):
        for l in range(LANES):
            tile[i * LANES + l] = x[first + l, i]
    for i in range(features):
        for third in range(i * LANES, (i + 1) * LANES, WIDTH):
            store(tile, third, (load(tile, third) - splat_at(mean, i)) / splat_at(std, i))


@kernel()
def store_tile(tile: Array, y: Array, first: int) -> None:
    """y[first + l, o] = tile[LANES o + l] for l < LANES."""
    units = y.shape[1]
    whole = units - units % WIDTH
    for third in range(0, LANES, WIDTH):
        for o in range(0, whole, WIDTH):
            at = (first + third) * units + o
            transpose(tile, o * LANES + third, LANES, WIDTH - 1, _ONE, y, at, units)
    for o in range(whole, units):
        for l in range(LANES):
            y[first + l, o] = tile[o * LANES + l]


@kernel()
def raise_sizes(sizes: Array, tile: Array, count: int, offset: np.float32) -> None:
    """sizes[l] = max(sizes[l], max_i |tile[LANES i + l]| + offset) for i < count, l < LANES."""
    for third in range(0, LANES, WIDTH):
        largest = splat(_ZERO)
        for i in range(count):
            largest = larger_size(largest, size(load(tile, i * LANES + third)))
        store(sizes, third, larger_size(load(sizes, third), largest + splat(offset)))


@kernel()
def largest_entry(a: Array, first: int, count: int) -> Any:
    """max |a_i| for first <= i < first + count."""
    largest = _ZERO
    for i in range(first, first + count):
        largest = max(largest, abs(a[i]))
    return largest


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
    term: Callable[..., Any], tile: Array, lists: Shortlists, begin: int, end: int, m0: Any, m1: Any, m2: Any
) -> Any:  # fmt: skip
    """The largest of m0, m1, m2 >= 0 and all terms of the steps begin..end, for each third of a tile of inputs."""
    step = begin
    while step < end and reached(m0, m1, m2, splat_at(lists.most, step)) != _EVERY_LANE:
        for n in range(step * STEP, (step + 1) * STEP):
            w, at = splat_at(lists.weight, n), offset_at(lists.place, n)
            m0 = larger_size(m0, term(load(tile, at), w))
            m1 = larger_size(m1, term(load(tile, at + WIDTH), w))
            m2 = larger_size(m2, term(load(tile, at + 2 * WIDTH), w))
        step += 1
    return m0, m1, m2


@kernel(inline="always")
def reached(m0: Any, m1: Any, m2: Any, limit: Any) -> Any:
    """The lanes in which all three have reached a limit."""
    return at_least(m0, limit) & at_least(m1, limit) & at_least(m2, limit)


@kernel(inline="always")
def unit_max(high: Array, low: Array, lists: Shortlists, o: int) -> Any:
    """The largest of floor[o], all high - w above and all w - low below, for each third of the tiles of inputs."""
    begin, end, m = lists.begin, lists.end, splat_at(lists.floor, o)
    m0, m1, m2 = list_max(above, high, lists, begin[o, ABOVE], end[o, ABOVE], m, m, m)
    return list_max(below, low, lists, begin[o, BELOW], end[o, BELOW], m0, m1, m2)


@kernel(inline="always")
def store_shifted(thirds: Any, lists: Shortlists, o: int, outputs: Array, at: int) -> None:
    """Unit o to a place in a tile of outputs: (distance + plus[o]) - minus[o], rounded in this order."""
    m0, m1, m2 = thirds
    add, subtract = splat_at(lists.plus, o), splat_at(lists.minus, o)
    store(outputs, at, (m0 + add) - subtract)
    store(outputs, at + WIDTH, (m1 + add) - subtract)
    store(outputs, at + 2 * WIDTH, (m2 + add) - subtract)


# -- batches ----------------------------------------------------------------------------------------------------------


@kernel(parallel=True)
def box_of(lower: Array, upper: Array, shares: int) -> tuple[Array, bool]:
    """The box [2, I] that holds all boxes of a batch, its lower ends, its upper ends; and whether all lie in [0, 1]."""
    samples, features = lower.shape
    box, inside = np.empty((shares, 2, features), np.float32), np.ones(shares, np.bool_)
    for share in prange(shares):
        least, greatest = np.full(features, np.float32(np.inf)), np.full(features, np.float32(-np.inf))
        valid = True
        for b in range(samples * share // shares, samples * (share + 1) // shares):
            for i in range(features):
                valid &= (lower[b, i] >= _ZERO) & (upper[b, i] <= _ONE)  # not so where one is NaN
                least[i] = min(least[i], lower[b, i])
                greatest[i] = max(greatest[i], upper[b, i])
        box[share, 0], box[share, 1], inside[share] = least, greatest, valid
    for share in range(1, shares):
        box[0, 0] = np.minimum(box[0, 0], box[share, 0])
        box[0, 1] = np.maximum(box[0, 1], box[share, 1])
    return box[0], bool(inside.all())


@kernel(parallel=True)
def narrow(lists: Shortlists, box: Array, new: Shortlists, shares: int) -> None:
    """To `new` the terms of the first layer that can exceed the floor of their unit for inputs in the box [2, I]."""
    units, reach = lists.widths[1], np.empty(len(lists.weight), np.float32)
    # by names of their own: Numba takes a loop that writes to fields of a tuple for one without effect
    new_end, new_place, new_weight, new_most = new.end, new.place, new.weight, new.most
    for share in prange(shares):
        for o in range(units * share // shares, units * (share + 1) // shares):
            for side, sign in ((ABOVE, np.float32(1)), (BELOW, np.float32(-1))):
                begin, floor = lists.begin[o, side], lists.floor[o]
                # unsigned: of an index that could be negative, Numba asks every time whether it is
                kept = np.uint64(begin * STEP)
                for n in range(kept, np.uint64(lists.end[o, side] * STEP)):
                    at, w = lists.place[n], lists.weight[n]
                    now = sign * (box[1 - side, np.uint64(at) // np.uint64(LANES)] - w)
                    new_place[kept], new_weight[kept], reach[kept] = at, w, now  # overwritten unless it counts
                    kept += np.uint64(now > floor)
                new_end[o, side] = (kept + np.uint64(STEP - 1)) // np.uint64(STEP)
                last = kept - np.uint64(1)
                for n in range(kept, np.uint64(new_end[o, side] * STEP)):
                    new_place[n], new_weight[n], reach[n] = new_place[last], new_weight[last], reach[last]
                largest = _ZERO
                for step in range(new_end[o, side] - 1, begin - 1, -1):
                    for n in range(step * STEP, (step + 1) * STEP):
                        largest = max(largest, reach[n])
                    new_most[step] = largest


@kernel(parallel=True)
def forward(x: Array, lists: Shortlists, y: Array, sizes: Array, shares: int) -> None:
    """x [B, I] through layers of widths[n] inputs and widths[n + 1] units, which stand one after another in the lists.

    The first takes (x - mean) / std. y [B, O] = (distance + plus) - minus of the last; sizes [B], the largest size of
    what the first takes and of all values on the way.
    """
    samples, widths, widest = len(x), lists.widths, lists.widths.max()
    for share in prange(shares):
        inputs, outputs, largest = aligned(LANES * widest), aligned(LANES * widest), aligned(LANES)
        t0, t1 = tiles_of(share, shares, samples)
        for t in range(t0, t1):
            b, first = min(t * LANES, samples - LANES), 0
            fill_tile(x, b, lists.mean, lists.std, inputs)
            largest[:] = _ZERO
            raise_sizes(largest, inputs, widths[0], _ZERO)
            for n in range(1, len(widths)):
                for o in range(widths[n]):
                    thirds = unit_max(inputs, inputs, lists, first + o)
                    store_shifted(thirds, lists, first + o, outputs, o * LANES)
                offset = largest_entry(lists.plus, first, widths[n]) + largest_entry(lists.minus, first, widths[n])
                raise_sizes(largest, outputs, widths[n], offset)
                inputs, outputs = outputs, inputs
                first += widths[n]
            store_tile(inputs, y, b)
            sizes[b : b + LANES] = largest


@kernel(parallel=True)
def forward_bounds(
    lower: Array, upper: Array, lists: Shortlists, least: Array, greatest: Array, shares: int
) -> None:  # fmt: skip
    """The least and greatest outputs over boxes, [B, O] each, of the same layers; each hands on its own to the next."""
    samples, widths, widest = len(lower), lists.widths, lists.widths.max()
    for share in prange(shares):
        low, high = aligned(LANES * widest), aligned(LANES * widest)
        small, large = aligned(LANES * widest), aligned(LANES * widest)
        t0, t1 = tiles_of(share, shares, samples)
        for t in range(t0, t1):
            b, first = min(t * LANES, samples - LANES), 0
            fill_tile(lower, b, lists.mean, lists.std, low)
            fill_tile(upper, b, lists.mean, lists.std, high)
            for n in range(1, len(widths)):
                for o in range(widths[n]):
                    unit, at = first + o, o * LANES
                    shortest = unit_max(low, high, lists, unit)
                    longest = unit_max(high, low, lists, unit)
                    store_shifted(shortest, lists, unit, small, at)
                    store_shifted(longest, lists, unit, large, at)
                low, high, small, large = small, large, low, high
                first += widths[n]
            store_tile(low, least, b)
            store_tile(high, greatest, b)


# -- pixels -----------------------------------------------------------------------------------------------------------


@kernel()
def new_until(count: int, a: Any) -> Any:
    """A copy of an array, but for its first entries, which are left to be written."""
    new = np.empty_like(a)
    new[count:] = a[count:]
    return new


@kernel()
def within_box(lower: Array, upper: Array, lists: Shortlists, shares: int) -> tuple[Shortlists, bool]:
    """The lists without what cannot count in the box of a large batch, and whether all its boxes lie in [0, 1].

    Those of the first layer alone: the values of others vary more, and the look costs as much as it saves.
    """
    box, inside = box_of(lower, upper, shares)
    if len(lower) < MANY:
        return lists, inside
    for side in range(2):
        box[side] = (box[side] - lists.mean) / lists.std
    units = lists.widths[1]
    steps = lists.end[units - 1, BELOW]
    new = Shortlists(
        lists.mean, lists.std, lists.widths, lists.begin,
        new_until(units, lists.end), new_until(STEP * steps, lists.place), new_until(STEP * steps, lists.weight),
        new_until(steps, lists.most), lists.floor, lists.plus, lists.minus,
    )  # fmt: skip
    narrow(lists, box, new, shares)
    return new, inside


@kernel()
def forward_of_pixels(x: Array, lists: Shortlists, y: Array, sizes: Array, shares: int) -> bool:
    """`forward` where all pixels lie in [0, 1], by what can count in their box; whether they do.

    In one call, since between two of them Python finds nothing in the cache any more.
    """
    lists, inside = within_box(x, x, lists, shares)
    if inside:
        forward(x, lists, y, sizes, shares)
    return inside


@kernel()
def forward_bounds_of_pixels(
    lower: Array, upper: Array, lists: Shortlists, least: Array, greatest: Array, shares: int
) -> bool:  # fmt: skip
    """The same for boxes."""
    lists, inside = within_box(lower, upper, lists, shares)
    if inside:
        forward_bounds(lower, upper, lists, least, greatest, shares)
    return inside
