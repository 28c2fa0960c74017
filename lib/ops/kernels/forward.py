"""Numba kernels of the forward pass and of the interval bounds; layouts in `tiles.py`."""

from typing import Any

import numpy as np
from numba import prange

from lib.ops.cpu_shapes import BLOCK, ROWS, WIDTH, Grid
from lib.ops.kernels.pairs import (
    LEAST_TOTAL,
    RUN,
    first_in_span,
    norm_of,
    pair_max,
    pair_norm,
    pair_sum,
    whole_sum,
)
from lib.ops.kernels.simd import (
    aligned,
    at_least,
    first_bit,
    kernel,
    larger_size,
    largest,
    load,
    lower_depth,
    multiply_add,
    size,
    splat,
    splat_at,
    square_root,
    store,
    total,
    where_greater,
    zeros,
)
from lib.ops.kernels.tiles import (
    ONE,
    TILE,
    ZERO,
    Array,
    Exponent,
    Indices,
    compensated,
    four_rows,
    norm,
    panel_of,
    safe_inverse,
    store_tile,
    stripe_of,
    tile_max,
)
from lib.ops.powers import Rule

# As in tiles.py.
BUILT_ON = "5895f49fb7aa679d"

# Inputs among which the first maximum is looked for: as many as there are bits in a mask.
SPAN = 64

# Of each pair of a tile: its norm (until that is known, its largest distance), the total, what rounding that has lost,
# the least size that counts, and the inverse of the largest.
_NORM, _TOTAL, _CARRY, _CUTOFF, _INVERSE = 0, TILE, 2 * TILE, 3 * TILE, 4 * TILE

# Sums outside this range may have lost terms to underflow or overflow.
_LEAST_SUM, _LARGEST_SUM = np.float32(2.0**-90), np.float32(2.0**126)


@kernel()
def plus_power(s: Any, t: Any, squarings: Exponent) -> Any:
    """s + |t|^(2^n), n = len(squarings); a tuple because its length is known when the kernel is compiled."""
    if len(squarings) == 0:
        return s + size(t)
    for _ in range(len(squarings) - 1):
        t = t * t
    return multiply_add(t, t, s)


@kernel()
def tile_sum(
    x: Array, rows: tuple[int, int, int, int], lanes: Array, at: int, count: int, squarings: Exponent
) -> Any:  # fmt: skip
    """sum_k |x[r, k] - w[k, j]|^(2^n), n = len(squarings)."""
    r0, r1, r2, r3 = rows
    s0 = s1 = s2 = s3 = splat(ZERO)
    for k in range(count):
        w = load(lanes, at + k * WIDTH)
        s0 = plus_power(s0, w - splat_at(x, r0 + k), squarings)
        s1 = plus_power(s1, w - splat_at(x, r1 + k), squarings)
        s2 = plus_power(s2, w - splat_at(x, r2 + k), squarings)
        s3 = plus_power(s3, w - splat_at(x, r3 + k), squarings)
    return s0, s1, s2, s3


@kernel()
def whole_tile_sum(
    x: Array, rows: tuple[int, int, int, int], lanes: Array, features: int, squarings: Exponent
) -> Any:  # fmt: skip
    """`tile_sum` over all features, run by run."""
    r0, r1, r2, r3 = rows
    s0 = s1 = s2 = s3 = c0 = c1 = c2 = c3 = splat(ZERO)
    # up to p = 2 the error of a sum matters less
    length = RUN if len(squarings) > 1 else 2 * RUN
    for k in range(0, features, length):
        run = tile_sum(x, (r0 + k, r1 + k, r2 + k, r3 + k), lanes, k * WIDTH, length, squarings)
        s0, c0 = compensated(s0, c0, run[0])
        s1, c1 = compensated(s1, c1, run[1])
        s2, c2 = compensated(s2, c2, run[2])
        s3, c3 = compensated(s3, c3, run[3])
    return s0 + c0, s1 + c1, s2 + c2, s3 + c3


@kernel(parallel=True)
def forward_max(x: Array, w: Array, y: Array, grid: Grid) -> None:
    """y[b, o] = max_i |x_bi - w_oi|, exactly as rounded; y [B, P WIDTH] with B padded to whole tiles."""
    stripes, samples, features, panels, _ = grid
    for task in prange(panels * stripes):
        q, b0, b1 = stripe_of(task, grid)
        lanes = panel_of(w, q, ONE, grid)
        for b in range(b0, b1, ROWS):
            tile = tile_max(x, four_rows(b, samples, features), lanes, 0, features)
            store_tile(tile, y, (b * panels + q) * WIDTH, panels * WIDTH)


@kernel()
def tile_first_span(
    x: Array, rows: tuple[int, int, int, int], lanes: Array, features: int, found: Array
) -> Any:  # fmt: skip
    """The tile's maxima, and in `found` the first span of inputs that holds each."""
    r0, r1, r2, r3 = rows
    m0 = m1 = m2 = m3 = f0 = f1 = f2 = f3 = splat(ZERO)
    for k in range(0, features, SPAN):
        count = min(SPAN, features - k)
        t0, t1, t2, t3 = tile_max(x, (r0 + k, r1 + k, r2 + k, r3 + k), lanes, k * WIDTH, count)
        here = splat(np.float32(k // SPAN))
        f0, f1 = where_greater(t0, m0, here, f0), where_greater(t1, m1, here, f1)
        f2, f3 = where_greater(t2, m2, here, f2), where_greater(t3, m3, here, f3)
        m0, m1, m2, m3 = larger_size(m0, t0), larger_size(m1, t1), larger_size(m2, t2), larger_size(m3, t3)
    store_tile((f0, f1, f2, f3), found, 0, WIDTH)
    return m0, m1, m2, m3


@kernel(parallel=True)
def forward_argmax(x: Array, w: Array, y: Array, index: Indices, grid: Grid) -> None:
    """As `forward_max`, and index [B, O], the first input that attains the maximum."""
    stripes, samples, features, panels, outputs = grid
    for task in prange(panels * stripes):
        q, b0, b1 = stripe_of(task, grid)
        lanes = panel_of(w, q, ONE, grid)
        found = aligned(TILE)
        for b in range(b0, b1, ROWS):
            rows = four_rows(b, samples, features)
            tile = tile_first_span(x, rows, lanes, features, found)
            store_tile(tile, y, (b * panels + q) * WIDTH, panels * WIDTH)
            for r in range(min(ROWS, samples - b)):
                for j in range(min(WIDTH, outputs - q * WIDTH)):
                    o, k = q * WIDTH + j, int(found[r * WIDTH + j]) * SPAN
                    value, count = y[((b + r) * panels + q) * WIDTH + j], min(SPAN, features - k)
                    index[b + r, o] = k + first_in_span(x, rows[r] + k, w, o * features + k, value, count)


@kernel(parallel=True)
def forward_squared(
    x: Array, scaled: Array, w: Array, y: Array, scale: np.float32, squarings: Exponent, rule: Rule, grid: Grid
) -> None:
    """p = 2^n in one pass over scaled inputs; a pair whose sum left the safe range is done again from the raw ones.

    The scale is a power of two, which has an inverse.
    """
    stripes, samples, features, panels, outputs = grid
    unscale = ONE / scale
    for task in prange(panels * stripes):
        q, b0, b1 = stripe_of(task, grid)
        lanes, valid = panel_of(w, q, scale, grid), (1 << min(WIDTH, outputs - q * WIDTH)) - 1
        for b in range(b0, b1, ROWS):
            rows = four_rows(b, samples, features)
            y0, stride = (b * panels + q) * WIDTH, panels * WIDTH
            store_tile(whole_tile_sum(scaled, rows, lanes, features, squarings), y, y0, stride)
            for r in range(min(ROWS, samples - b)):
                s, here = load(y, y0 + r * stride), y0 + r * stride
                lost = valid & ~(at_least(s, splat(_LEAST_SUM)) & at_least(splat(_LARGEST_SUM), s))
                for _ in range(len(squarings)):
                    s = square_root(s)
                store(y, here, s * splat(unscale))
                while lost:
                    j = first_bit(lost)
                    lost &= lost - 1
                    y[here + j] = pair_norm(x, rows[r], w, (q * WIDTH + j) * features, features, rule)


@kernel()
def kept_sums(
    x: Array, a: int, w: Array, c: int, valid: int, features: int, rule: Rule, degree: Exponent, peaks: Array,
    values: Array, at: int, sums: Array,
) -> None:  # fmt: skip
    """The totals of one sample's pairs over the blocks that reach their cutoff; `at` is its place in a tile."""
    outputs, cutoffs = (1 << valid) - 1, load(values, _CUTOFF + at)
    for first in range(0, features, RUN * BLOCK):
        sums[:] = ZERO
        for k in range(first, min(first + RUN * BLOCK, features), BLOCK):
            kept = outputs & at_least(load(peaks, k // BLOCK * TILE + at), cutoffs)
            while kept:
                j = first_bit(kept)
                kept &= kept - 1
                cutoff, inverse = splat_at(values, _CUTOFF + at + j), splat_at(values, _INVERSE + at + j)
                block = pair_sum(x, a + k, w, c + j * features + k, cutoff, inverse, rule, degree)
                store(sums, j * WIDTH, load(sums, j * WIDTH) + block)
        for j in range(at, at + valid):
            term = total(load(sums, (j - at) * WIDTH))
            values[_TOTAL + j], values[_CARRY + j] = compensated(values[_TOTAL + j], values[_CARRY + j], term)


@kernel()
def tile_power(
    x: Array, rows: tuple[int, int, int, int], lanes: Array, w: Array, c: int, valid: int, live: int, features: int,
    rule: Rule, degree: Exponent, cut: np.float32, peaks: Array, values: Array, sums: Array,
) -> None:  # fmt: skip
    """Any p: the maxima of all blocks first, then only the blocks that reach cut times the maximum of their pair, all
    where there is no fit.

    `values` [5, TILE] has them from `_NORM` on.
    """
    r0, r1, r2, r3 = rows
    values[:] = ZERO
    for k in range(0, features, BLOCK):
        tile = tile_max(x, (r0 + k, r1 + k, r2 + k, r3 + k), lanes, k * WIDTH, BLOCK)
        store_tile(tile, peaks, k // BLOCK * TILE, WIDTH)
        for r in range(ROWS):
            peak = load(peaks, k // BLOCK * TILE + r * WIDTH)
            store(values, _NORM + r * WIDTH, larger_size(load(values, _NORM + r * WIDTH), peak))
    for i in range(TILE):
        values[_CUTOFF + i] = cut * values[_NORM + i]
        values[_INVERSE + i] = safe_inverse(values[_NORM + i])
    for r in range(live):
        if len(degree) > 0:
            kept_sums(x, rows[r], w, c, valid, features, rule, degree, peaks, values, r * WIDTH, sums)
        else:
            for j in range(valid):
                i, row = r * WIDTH + j, c + j * features
                inverse = splat_at(values, _INVERSE + i)
                values[_TOTAL + i] = total(whole_sum(x, rows[r], w, row, features, inverse, rule))
    for r in range(0, TILE, WIDTH):
        safe = larger_size(splat(LEAST_TOTAL), load(values, _TOTAL + r) + load(values, _CARRY + r))
        store(values, _NORM + r, norm(safe, load(values, _NORM + r), load(values, _INVERSE + r), rule.exponent))


@kernel(parallel=True)
def forward_power(x: Array, w: Array, y: Array, rule: Rule, degree: Exponent, cut: np.float32, grid: Grid) -> None:
    """Any other finite p, a tile after the other; terms below cut times the largest of their pair are left out."""
    stripes, samples, features, panels, outputs = grid
    for task in prange(panels * stripes):
        q, b0, b1 = stripe_of(task, grid)
        lanes = panel_of(w, q, ONE, grid)
        peaks, values = aligned(features // BLOCK * TILE), aligned(5 * TILE)
        sums = aligned(WIDTH * WIDTH)
        valid = min(WIDTH, outputs - q * WIDTH)
        for b in range(b0, b1, ROWS):
            rows, live = four_rows(b, samples, features), min(ROWS, samples - b)
            tile_power(
                x, rows, lanes, w, q * WIDTH * features, valid, live, features, rule, degree, cut, peaks, values, sums,
            )  # fmt: skip
            for r in range(ROWS):
                store(y, ((b + r) * panels + q) * WIDTH, load(values, _NORM + r * WIDTH))


@kernel(parallel=True)
def forward_bounds(lower: Array, upper: Array, w: Array, least: Array, greatest: Array, grid: Grid) -> None:
    """max(l - w, w - u, 0) and max(|l - w|, |u - w|), both from the ranges of w - l and w - u."""
    stripes, _, features, panels, _ = grid
    for task in prange(panels * stripes):
        q, b0, b1 = stripe_of(task, grid)
        lanes = panel_of(w, q, ONE, grid)
        for b in range(b0, b1):
            low_height = high_height = splat(ZERO)
            low_depth = high_depth = splat(-ZERO)
            for k in range(features):
                here = load(lanes, k * WIDTH)
                low, high = here - splat_at(lower, b * features + k), here - splat_at(upper, b * features + k)
                low_height, low_depth = larger_size(low_height, low), lower_depth(low_depth, low)
                high_height, high_depth = larger_size(high_height, high), lower_depth(high_depth, high)
            outward = larger_size(high_height, size(low_depth))
            at = (b * panels + q) * WIDTH
            store(least, at, outward)
            store(greatest, at, larger_size(outward, larger_size(low_height, size(high_depth))))


@kernel(parallel=True)
def forward_few(x: Array, w: Array, y: Array, rule: Rule, samples: int, features: int, shares: int) -> None:
    """The norms of a few samples, straight from w: packing it would cost more than they do.

    Only what lies behind the last whole block is copied, to fill it up to one.
    """
    outputs, whole = len(y) // samples, features - features % BLOCK
    last = BLOCK if whole < features else 0
    for share in prange(shares):
        x_end, w_end = zeros(samples * BLOCK), zeros(BLOCK)
        for b in range(samples):
            for k in range(whole, features):
                x_end[b * BLOCK + k - whole] = x[b * features + k]
        for o in range(outputs * share // shares, outputs * (share + 1) // shares):
            for k in range(whole, features):
                w_end[k - whole] = w[o * features + k]
            for b in range(samples):
                a, c, end = b * features, o * features, b * BLOCK
                here, there = pair_max(x, a, w, c, whole), pair_max(x_end, end, w_end, 0, last)
                m = largest(larger_size(splat(here), splat(there)))
                if np.isinf(rule.exponent):
                    y[b * outputs + o] = m
                else:
                    inverse = splat(safe_inverse(m))
                    s = whole_sum(x, a, w, c, whole, inverse, rule)
                    s = s + whole_sum(x_end, end, w_end, 0, last, inverse, rule)
                    y[b * outputs + o] = norm_of(m, s, inverse, rule)
