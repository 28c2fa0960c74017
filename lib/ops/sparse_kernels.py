"""Numba kernels of the p = inf distance over shortlists of weights; `sparse.py` makes the lists and calls them.

A task owns one tile: LANES samples side by side, [I, LANES], so that a vector instruction serves several samples and a
weight is read once for all of them. Plain Numba would keep the running maxima in memory and check in every round that
they do not overlap the tile, which costs as much as the work; the loop over a shortlist is therefore written in LLVM's
own vectors, which stay in registers on every processor. One file: Numba's cache does not see changes in other files.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[np.float32]
Counts = NDArray[np.int64]
Indices = NDArray[np.int32]
Values = tuple[Any, ...]

LANES = 32
CHUNK = 8

_CACHE_LINE = 16  # floats
_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)


# -- one unit, one tile: the loop over the chunks of a shortlist, in LLVM's vectors -----------------------------------


def _splat(builder: ir.IRBuilder, scalar: Any) -> Any:
    lone = builder.insert_element(_VECTOR(ir.Undefined), scalar, _INT32(0))
    return builder.shuffle_vector(lone, lone, ir.VectorType(_INT32, LANES)([0] * LANES))


def _scan(builder: ir.IRBuilder, lists: Values, span: Values, tile: Any, start: Any, above: bool) -> Any:
    """The largest of start and x - w (above) or w - x, in every lane, over the chunks of a span.

    Stops as soon as every lane is at or above all that can still come.
    """
    (index, weight, reach), (begin, end) = lists, span
    entry = builder.block
    head, look, body, done = (builder.append_basic_block(name) for name in ("head", "look", "body", "done"))
    builder.branch(head)

    builder.position_at_end(head)
    chunk, largest = builder.phi(_INT64), builder.phi(_VECTOR)
    builder.cbranch(builder.icmp_signed("<", chunk, end), look, done)

    builder.position_at_end(look)
    below = builder.fcmp_ordered("<", largest, _splat(builder, builder.load(builder.gep(reach, [chunk]))))
    lanes = ir.IntType(LANES)
    builder.cbranch(builder.icmp_unsigned("!=", builder.bitcast(below, lanes), lanes(0)), body, done)

    builder.position_at_end(body)
    grown = largest
    for k in range(CHUNK):
        at = builder.add(builder.mul(chunk, _INT64(CHUNK)), _INT64(k))
        where = builder.mul(builder.sext(builder.load(builder.gep(index, [at])), _INT64), _INT64(LANES))
        x = builder.load(builder.bitcast(builder.gep(tile, [where]), _VECTOR.as_pointer()), align=4)
        w = _splat(builder, builder.load(builder.gep(weight, [at])))
        term = builder.fsub(x, w) if above else builder.fsub(w, x)
        grown = builder.select(builder.fcmp_ordered(">", grown, term), grown, term)
    following = builder.add(chunk, _INT64(1))
    builder.branch(head)

    for phi, first, later in ((chunk, begin, following), (largest, start, grown)):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, body)
    builder.position_at_end(done)
    return largest


def _scan_unit(
    _: Any, high: Any, low: Any, index: Any, weight: Any, reach: Any, begin: Any, middle: Any, end: Any, floor: Any,
    out: Any,
) -> Any:  # fmt: skip
    """out = the largest of floor, high[index] - weight over begin..middle and weight - low[index] over middle..end."""
    signature = types.void(high, low, index, weight, reach, begin, middle, end, floor, out)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        high, low, index, weight, reach, out = (
            context.make_array(signature.args[n])(context, builder, values[n]).data for n in (0, 1, 2, 3, 4, 9)
        )
        begin, middle, end, floor = values[5:9]
        lists = index, weight, reach
        largest = _scan(builder, lists, (begin, middle), high, _splat(builder, floor), above=True)
        largest = _scan(builder, lists, (middle, end), low, largest, above=False)
        builder.store(largest, builder.bitcast(out, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate


scan: Any = intrinsic(_scan_unit)


# -- parallel drivers -------------------------------------------------------------------------------------------------
# Batches hold at least LANES samples. The last tile reaches back over the one before it, so that all tiles are full;
# samples in both get the same values twice.


@njit(cache=True, nogil=True)
def empty_tile(features: int) -> Array:
    """Room for [features * LANES], where rows of 128 bytes do not straddle cache lines."""
    room = np.empty(features * LANES + _CACHE_LINE, np.float32)
    shift = (-(room.ctypes.data // 4)) % _CACHE_LINE
    return room[shift : shift + features * LANES]


@njit(cache=True, nogil=True)
def fill_tile(x: Array, first: int, tile: Array) -> None:
    """Samples first..first + LANES of x [B, I] side by side."""
    for i in range(x.shape[1]):
        for l in range(LANES):
            tile[i * LANES + l] = x[first + l, i]


@njit(cache=True, nogil=True, parallel=True)
def forward(
    x: Array, first: Counts, index: Indices, weight: Array, reach: Array, floor: Array, plus: Array, minus: Array,
    y: Array, shares: int,
) -> None:  # fmt: skip
    """y [O, B] = (distance + plus) - minus for x [B, I], rounded in this order."""
    tiles = (len(x) + LANES - 1) // LANES
    for share in prange(shares):
        tile, out = empty_tile(x.shape[1]), np.empty(LANES, np.float32)
        for t in range(tiles * share // shares, tiles * (share + 1) // shares):
            b = min(t * LANES, len(x) - LANES)
            fill_tile(x, b, tile)
            for o in range(len(y)):
                span = first[2 * o : 2 * o + 3]
                scan(tile, tile, index, weight, reach, span[0], span[1], span[2], floor[o], out)
                for l in range(LANES):
                    y[o, b + l] = (out[l] + plus[o]) - minus[o]


@njit(cache=True, nogil=True, parallel=True)
def forward_bounds(
    lower: Array, upper: Array, first: Counts, index: Indices, weight: Array, reach: Array, floor: Array, plus: Array,
    minus: Array, least: Array, greatest: Array, shares: int,
) -> None:  # fmt: skip
    """The same for the least and greatest distance over boxes, [O, B] each."""
    tiles = (len(lower) + LANES - 1) // LANES
    for share in prange(shares):
        low, high = empty_tile(lower.shape[1]), empty_tile(lower.shape[1])
        small, large = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
        for t in range(tiles * share // shares, tiles * (share + 1) // shares):
            b = min(t * LANES, len(lower) - LANES)
            fill_tile(lower, b, low)
            fill_tile(upper, b, high)
            for o in range(len(least)):
                span = first[2 * o : 2 * o + 3]
                scan(low, high, index, weight, reach, span[0], span[1], span[2], floor[o], small)
                scan(high, low, index, weight, reach, span[0], span[1], span[2], floor[o], large)
                for l in range(LANES):
                    least[o, b + l] = (small[l] + plus[o]) - minus[o]
                    greatest[o, b + l] = (large[l] + plus[o]) - minus[o]
