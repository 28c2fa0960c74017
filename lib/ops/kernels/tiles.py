"""What the kernels of both passes are made of: powers, and tiles of four samples by sixteen outputs.

Layouts, all flat. `x` [B, I] and `w` [O, I], I a multiple of BLOCK. `lanes` [I, WIDTH]: the weights of a panel of WIDTH
outputs side by side: one vector instruction serves sixteen outputs and no sum runs across a vector. `x_block`
[B, BLOCK] and `w_block` [O, BLOCK]: blocks of inputs, for the gradients. Both are copies that a task makes for itself,
since one copy for all tasks would be fresh memory from the system in every call. Padding is zeros, past the
last output of `lanes` that output again. Tasks are cut by shape and own what they write, so results do not depend on
the number of threads.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.ops.cpu_shapes import HUGE, ROWS, WIDTH, Grid
from lib.ops.kernels.simd import (
    aligned,
    exponent,
    kernel,
    larger,
    larger_size,
    load,
    mantissa,
    multiply_add,
    shift_exponent,
    size,
    splat,
    splat_at,
    store,
    transpose,
    where_greater,
)
from lib.ops.powers import Rule

Array = NDArray[np.float32]
Indices = NDArray[np.int32]
Exponent = tuple[int, ...]

# SHA-256 of the files of lib.ops that this one imports: Numba's cache looks at this file alone, so an edit there must
# change this line; a test computes it.
BUILT_ON = "99b26a54d30d9171"

TILE = ROWS * WIDTH

ZERO, ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_TINY, _HUGE = np.float32(1e-45), np.float32(HUGE)

# 2^23 + 2^22: adding it rounds a small float32 to an integer held in the low bits.
_ROUNDER = np.float32(1.5 * 2**23)

# Minimax fits of log2(1 + m) / m on [sqrt(1/2) - 1, sqrt(2) - 1] (log2 off by at most 2^-24) and of 2^f on [-1/2, 1/2]
# (to the last bit).
_L7, _L6, _L5, _L4, _L3, _L2, _L1, _L0 = np.array(
    [-0.14574452, 0.23689047, -0.25006905, 0.28670743, -0.36008722, 0.48093945, -0.72135717, 1.4426948],
    dtype=np.float32,
)
_E6, _E5, _E4, _E3, _E2, _E1, _E0 = np.array(
    [0.00015345812, 0.0013399931, 0.0096184891, 0.055503286, 0.24022646, 0.69314718, 1.0], dtype=np.float32
)


# -- powers -----------------------------------------------------------------------------------------------------------


@kernel()
def log2_parts(r: Any) -> Any:
    """log2 r of a normal r > 0: its whole part, to the nearest, and the rest."""
    m = mantissa(r) - splat(ONE)
    m2 = m * m
    # Pairs of terms keep the chain of dependent operations short.
    slope = multiply_add(splat(_L7), m, splat(_L6))
    slope = multiply_add(slope, m2, multiply_add(splat(_L5), m, splat(_L4)))
    slope = multiply_add(slope, m2, multiply_add(splat(_L3), m, splat(_L2)))
    return exponent(r), multiply_add(slope, m2, multiply_add(splat(_L1), m, splat(_L0))) * m


@kernel()
def exp2_curve(f: Any) -> Any:
    """(2^f - 1 - f log(2)) / f^2 for |f| <= 1/2."""
    curve = multiply_add(splat(_E6), f * f, multiply_add(splat(_E5), f, splat(_E4)))
    return multiply_add(curve, f * f, multiply_add(splat(_E3), f, splat(_E2)))


@kernel()
def power(r: Any, p: Any, least: Any) -> Any:
    """r^p = 2^(p log2 r) in every lane for r >= 0, where the result is below 2^127; r is raised to `least`."""
    whole, part = log2_parts(larger(r, least))
    rounded = multiply_add(p, whole + part, splat(_ROUNDER))
    # the whole part of p log2 r goes before that is rounded
    f = multiply_add(p, part, multiply_add(p, whole, splat(_ROUNDER) - rounded))
    return shift_exponent(multiply_add(exp2_curve(f), f * f, multiply_add(splat(_E1), f, splat(_E0))), rounded)


@kernel()
def norm(s: Any, largest: Any, inverse: Any, p: np.float32) -> Any:
    """s^(1/p) / inverse for s = sum_i (|t_i| inverse)^p, where inverse is 1 / max_i |t_i| but for rounding.

    Rounded almost only once, since the gradients multiply its error by p - 1: the whole part of log2(s) / p goes before
    that is rounded, and what the inverse is off by, too. Infinite where it is too large for a float32.
    """
    exact = 1 / np.float64(p)
    high = np.float32(exact)
    low = np.float32(exact - np.float64(high))
    whole, part = log2_parts(s)
    rounded = multiply_add(splat(high), whole + part, splat(_ROUNDER))
    f = multiply_add(splat(high), whole, splat(_ROUNDER) - rounded)
    f = f + multiply_add(splat(low), whole, splat(high) * part)
    above = multiply_add(exp2_curve(f), f * f, splat(_E1) * f)
    off = multiply_add(largest, inverse, splat(-ONE))
    above = above - multiply_add(off, above, off)
    half = largest * shift_exponent(splat(_HALF), rounded)
    value = multiply_add(above, half, half)
    # half of the least float is 0, and no norm is below its largest term
    return where_greater(splat(_HUGE), half, larger(value + value, largest), half + half)


@kernel()
def powers_of_block(d0: Any, d1: Any, inverse: Any, rule: Rule, degree: Exponent) -> Any:
    """(d inverse)^e for both halves of a block, by the fit of `powers.py` or, where there is none, by `power`.

    The fit is of degree len(degree), a tuple because its length is known when the kernel is compiled; 0 is none.
    Two halves at a time, because each alone would wait for its own results.
    """
    e, squarings, least, coefficients = rule
    if len(degree) == 0:
        return power(d0 * inverse, splat(e), splat(least)), power(d1 * inverse, splat(e), splat(least))
    # Terms too small for the fit would end in subnormal numbers, which are many times slower.
    t0 = larger(multiply_add(d0, inverse, splat(-ONE)), splat(least))
    t1 = larger(multiply_add(d1, inverse, splat(-ONE)), splat(least))
    v0 = v1 = splat_at(coefficients, 0)
    for i in range(1, len(degree) + 1):
        c = splat_at(coefficients, i)
        v0, v1 = multiply_add(v0, t0, c), multiply_add(v1, t1, c)
    for _ in range(squarings):
        v0, v1 = v0 * v0, v1 * v1
    return v0, v1


@kernel()
def safe_inverse(a: np.float32) -> np.float32:
    """1 / a for a >= 0, kept finite."""
    return min(ONE / max(a, _TINY), _HUGE)


# -- tiles of four samples and one panel of outputs -------------------------------------------------------------------


@kernel()
def four_rows(b: int, samples: int, stride: int) -> tuple[int, int, int, int]:
    """Where rows b..b+3 start; rows past the last repeat it, so that no tile is a special case."""
    last = samples - 1
    return min(b, last) * stride, min(b + 1, last) * stride, min(b + 2, last) * stride, min(b + 3, last) * stride


@kernel()
def fill_panel(w: Array, q: int, scale: np.float32, features: int, outputs: int, lanes: Array, at: int) -> None:
    """lanes[at + k WIDTH + j] = scale w[q WIDTH + j, k]: sixteen outputs side by side, past the last that one again."""
    last = min(WIDTH, outputs - q * WIDTH) - 1
    for k in range(0, features, WIDTH):
        transpose(w, q * WIDTH * features + k, features, last, scale, lanes, at + k * WIDTH, WIDTH)


@kernel()
def stripe_of(task: int, grid: Grid) -> tuple[int, int, int]:
    """The panel of a task and its samples b0..b1; neighbouring tasks share a panel."""
    tiles = (grid.samples + ROWS - 1) // ROWS
    length = (tiles + grid.stripes - 1) // grid.stripes * ROWS
    b0 = task % grid.stripes * length
    return task // grid.stripes, b0, min(b0 + length, grid.samples)


@kernel()
def panel_of(w: Array, q: int, scale: np.float32, grid: Grid) -> Array:
    """The weights of one panel, scaled: a copy for one task."""
    lanes = aligned(grid.features * WIDTH)
    fill_panel(w, q, scale, grid.features, grid.outputs, lanes, 0)
    return lanes


@kernel()
def tile_max(x: Array, rows: tuple[int, int, int, int], lanes: Array, at: int, count: int) -> Any:
    """max_k |x[r, k] - w[k, j]| over `count` inputs, for four rows r and the lanes j that start at `at`."""
    r0, r1, r2, r3 = rows
    m0 = m1 = m2 = m3 = splat(ZERO)
    for k in range(count):
        w = load(lanes, at + k * WIDTH)
        m0 = larger_size(m0, size(w - splat_at(x, r0 + k)))
        m1 = larger_size(m1, size(w - splat_at(x, r1 + k)))
        m2 = larger_size(m2, size(w - splat_at(x, r2 + k)))
        m3 = larger_size(m3, size(w - splat_at(x, r3 + k)))
    return m0, m1, m2, m3


@kernel()
def compensated(total: Any, carry: Any, term: Any) -> Any:
    """total + term, and in the carry what rounding it lost, so that a sum of many runs is as exact as its runs.

    Not quite where |term| > |total|: of terms of one sign, few can be that large.
    """
    new = total + term
    return new, carry + (term - (new - total))


@kernel()
def store_tile(tile: Any, out: Array, at: int, stride: int) -> None:
    t0, t1, t2, t3 = tile
    store(out, at, t0)
    store(out, at + stride, t1)
    store(out, at + 2 * stride, t2)
    store(out, at + 3 * stride, t3)
