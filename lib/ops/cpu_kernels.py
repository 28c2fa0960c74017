"""Numba kernels of the l_p distance on float32 panels; `cpu.py` cuts the panels and chooses the kernel.

Layouts. `x_blocks` [N, B, BLOCK] and `w_blocks` [N, O, BLOCK]: blocks of inputs, zero-padded, contiguous along inputs.
`lanes` [N, P, BLOCK, L]: the same weights with L outputs side by side, so that one vector instruction serves eight or
sixteen outputs and no sum runs across a vector. Tasks are cut by shape and own what they write, so results do not
depend on the number of threads. One file on purpose: Numba's cache does not see changes in other files.
"""

from typing import Any

import numpy as np
from numba import config, njit, prange, set_num_threads
from numpy.typing import NDArray

Array = NDArray[np.float32]
Exponent = tuple[int, ...]

BLOCK = 32
LANES = 128
WIDE = 128
ROWS = 32
# The maxima of all blocks of so few rows stay in the second-level cache.
FEW_ROWS = 8
UNROLL = 8

_ZERO, _ONE = np.float32(0), np.float32(1)
_TINY, HUGE = np.float32(1e-45), np.float32(3e38)
_SMALLEST_EXPONENT = np.float32(-126)
_LARGEST_EXPONENT = np.float32(127)

# Sums outside this range may have lost terms to underflow or overflow.
_LEAST_SUM, _LARGEST_SUM = np.float32(2.0**-90), np.float32(2.0**126)

# 2^23 + 2^22: adding it rounds a small float32 to an integer held in the low bits.
_ROUNDER = np.float32(1.5 * 2**23)
_MANTISSA_BITS = np.int32(23)
_BITS_OF_SQRT_HALF = np.int32(0x3F3504F3)

# Minimax fits, relative error below 2^-25: log2(1 + m) / m on [sqrt(1/2) - 1, sqrt(2) - 1] and 2^f on [-1/2, 1/2].
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = np.array(
    [1.4426950, -0.72134733, 0.48091063, -0.36070368, 0.28791624, -0.23894502, 0.21571596, -0.20726855, 0.12583456],
    dtype=np.float32,
)
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = np.array(
    [1.0, 0.69314718, 0.24022646, 0.055503286, 0.0096184891, 0.0013399931, 0.00015345805], dtype=np.float32
)


def kernel(**options: Any) -> Any:
    """njit with the options all kernels share; no fast-math beyond fused multiply-add, so NaN and ties stay exact."""
    return njit(cache=True, nogil=True, **options)


def use_threads(count: int) -> None:
    """Lets the kernels use so many threads, or as many as Numba started with where that is less."""
    set_num_threads(min(count, config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


# -- powers -----------------------------------------------------------------------------------------------------------


@kernel(fastmath={"contract"})
def even_power(t: np.float32, squarings: Exponent) -> np.float32:
    """|t|^(2^n) for n = len(squarings) >= 1; a tuple because its length is known when the kernel is compiled."""
    for _ in range(len(squarings)):
        t = t * t
    return t


@kernel(fastmath={"contract"})
def odd_power(g: np.float32, t: np.float32, floor: np.float32, squarings: Exponent) -> np.float32:
    """g t^(2^n - 1) = g t t^2 t^4 ...: an odd power, so it carries the sign of t.

    t^2 is raised to `floor`, which keeps subnormal numbers (several times slower) out of terms too small to count.
    """
    product = g * t
    t = max(t * t, floor)
    for _ in range(len(squarings) - 1):
        product = product * t
        t = t * t
    return product


@kernel(fastmath={"contract"})
def power(r: np.float32, exponent: np.float32) -> np.float32:
    """r^exponent = 2^(exponent log2 r) for r >= 0 without branches, so that it vectorises; 0 counts as 2^-127."""
    bits = np.float32(r).view(np.int32)
    whole = np.int32(np.int32(bits - _BITS_OF_SQRT_HALF) >> _MANTISSA_BITS)
    m = np.int32(bits - np.int32(whole << _MANTISSA_BITS)).view(np.float32) - _ONE
    # Estrin-like pairs keep the chain of dependent operations short.
    m2 = m * m
    low = (_L0 + _L1 * m) + (_L2 + _L3 * m) * m2
    high = (_L4 + _L5 * m) + (_L6 + _L7 * m) * m2 + _L8 * (m2 * m2)
    log2 = np.float32(whole) + m * (low + high * (m2 * m2))
    return exp2(min(max(exponent * log2, _SMALLEST_EXPONENT), _LARGEST_EXPONENT))


@kernel()
def exp2(z: np.float32) -> np.float32:
    """2^z for -126 <= z <= 127: a polynomial for the fraction, the integer part added to the exponent bits."""
    shifted = z + _ROUNDER
    f = z - (shifted - _ROUNDER)
    f2 = f * f
    fraction = (_E0 + _E1 * f) + (_E2 + _E3 * f) * f2 + ((_E4 + _E5 * f) + _E6 * f2) * (f2 * f2)
    exponent = np.int32(np.float32(shifted).view(np.int32) << _MANTISSA_BITS)
    return np.int32(np.float32(fraction).view(np.int32) + exponent).view(np.float32)


# -- one block of inputs, lanes over outputs --------------------------------------------------------------------------
# Eight inputs for each load and store of the accumulator; the inner loop has no remainder and becomes vector code.


@kernel()
def block_max(x: Array, w: Array, largest: Array) -> None:
    """largest[r, j] = max(largest[r, j], max_k |x[r, k] - w[k, j]|), exactly as rounded."""
    for k in range(0, BLOCK, UNROLL):
        for r in range(x.shape[0]):
            x0, x1, x2, x3 = x[r, k], x[r, k + 1], x[r, k + 2], x[r, k + 3]
            x4, x5, x6, x7 = x[r, k + 4], x[r, k + 5], x[r, k + 6], x[r, k + 7]
            for j in range(largest.shape[1]):
                m = max(largest[r, j], abs(x0 - w[k, j]))
                m = max(m, abs(x1 - w[k + 1, j]))
                m = max(m, abs(x2 - w[k + 2, j]))
                m = max(m, abs(x3 - w[k + 3, j]))
                m = max(m, abs(x4 - w[k + 4, j]))
                m = max(m, abs(x5 - w[k + 5, j]))
                m = max(m, abs(x6 - w[k + 6, j]))
                largest[r, j] = max(m, abs(x7 - w[k + 7, j]))


@kernel(fastmath={"contract"})
def block_sum(x: Array, w: Array, total: Array, squarings: Exponent) -> None:
    """total[r, j] += sum_k |x[r, k] - w[k, j]|^(2^n)."""
    for k in range(0, BLOCK, UNROLL):
        for r in range(x.shape[0]):
            x0, x1, x2, x3 = x[r, k], x[r, k + 1], x[r, k + 2], x[r, k + 3]
            x4, x5, x6, x7 = x[r, k + 4], x[r, k + 5], x[r, k + 6], x[r, k + 7]
            for j in range(total.shape[1]):
                s = even_power(x0 - w[k, j], squarings) + total[r, j]
                s += even_power(x1 - w[k + 1, j], squarings)
                s += even_power(x2 - w[k + 2, j], squarings)
                s += even_power(x3 - w[k + 3, j], squarings)
                s += even_power(x4 - w[k + 4, j], squarings)
                s += even_power(x5 - w[k + 5, j], squarings)
                s += even_power(x6 - w[k + 6, j], squarings)
                total[r, j] = s + even_power(x7 - w[k + 7, j], squarings)


@kernel()
def block_range(x: Array, w: Array, least: Array, largest: Array) -> None:
    """Running minimum and maximum over k of x[r, k] - w[k, j]."""
    for k in range(0, BLOCK, UNROLL // 2):
        for r in range(x.shape[0]):
            x0, x1, x2, x3 = x[r, k], x[r, k + 1], x[r, k + 2], x[r, k + 3]
            for j in range(largest.shape[1]):
                t0, t1, t2, t3 = x0 - w[k, j], x1 - w[k + 1, j], x2 - w[k + 2, j], x3 - w[k + 3, j]
                largest[r, j] = max(max(largest[r, j], max(t0, t1)), max(t2, t3))
                least[r, j] = min(min(least[r, j], min(t0, t1)), min(t2, t3))


# -- one block of inputs of one (sample, output) pair, lanes over inputs ----------------------------------------------


@kernel()
def safe_inverse(a: np.float32) -> np.float32:
    """1 / a for a >= 0, kept finite."""
    return min(_ONE / max(a, _TINY), HUGE)


@kernel(fastmath={"reassoc", "contract"})
def pair_sum(x: Array, w: Array, inverse: np.float32, p: np.float32) -> np.float32:
    """sum_k (|x_k - w_k| inverse)^p."""
    total = _ZERO
    for k in range(BLOCK):
        total += power(abs(x[k] - w[k]) * inverse, p)
    return total


@kernel(fastmath={"contract"})
def pair_gradient(
    x: Array, w: Array, grad_x: Array, grad_w: Array, g: np.float32, inverse: np.float32, exponent: np.float32
) -> None:
    """Adds u_k = g sign(t_k) (|t_k| inverse)^exponent to grad_x and takes it from grad_w, t = x - w, sign(0) = 0."""
    for k in range(BLOCK):
        t = x[k] - w[k]
        size = g * power(abs(t) * inverse, exponent)
        u = _ZERO if t == _ZERO else (size if t > _ZERO else -size)
        grad_x[k] += u
        grad_w[k] -= u


@kernel(fastmath={"reassoc", "contract", "nnan", "nsz"})
def pair_norm(x: Array, w: Array, p: np.float32) -> np.float32:
    """||x - w||_p of one pair, rescaled by its own maximum: for pairs out of the range of the fast path."""
    largest, total = _ZERO, _ZERO
    for i in range(len(x)):
        largest = max(largest, abs(x[i] - w[i]))
    inverse = safe_inverse(largest)
    for i in range(len(x)):
        total += power(abs(x[i] - w[i]) * inverse, p)
    return largest * power(total, _ONE / p)


@kernel()
def pair_first_index(x: Array, w: Array, value: np.float32) -> int:
    """The first k of the block with |x_k - w_k| = value; branch-free, so that it vectorises."""
    first = np.int32(BLOCK)
    for k in range(BLOCK):
        first = min(first, np.int32(k) if abs(x[k] - w[k]) == value else np.int32(BLOCK))
    return int(first)


# -- tiles: samples b0..b1 against one panel of outputs o0..o1 ---------------------------------------------------------


@kernel()
def tile_max(x: Array, lanes: Array, q: int, y: Array, b0: int, b1: int, o0: int, o1: int) -> None:
    """y[b, o] = max_i |x_bi - w_oi|."""
    largest = np.zeros((b1 - b0, lanes.shape[3]), np.float32)
    for n in range(len(x)):
        block_max(x[n, b0:b1], lanes[n, q], largest)
    y[b0:b1, o0:o1] = largest[:, : o1 - o0]


@kernel()
def tile_argmax(
    x: Array, lanes: Array, q: int, w: Array, y: Array, index: NDArray[np.int32], b0: int, b1: int, o0: int, o1: int
) -> None:
    """As `tile_max`, with the first index that attains the maximum: only the first block to hold it is searched."""
    shape = (b1 - b0, lanes.shape[3])
    largest, found = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    block = np.empty(shape, np.float32)
    for n in range(len(x)):
        block[:] = _ZERO
        block_max(x[n, b0:b1], lanes[n, q], block)
        for r in range(shape[0]):
            for j in range(shape[1]):
                found[r, j] = np.int32(n) if block[r, j] > largest[r, j] else found[r, j]
                largest[r, j] = max(block[r, j], largest[r, j])
    for b in range(b0, b1):
        for o in range(o0, o1):
            n, value = found[b - b0, o - o0], largest[b - b0, o - o0]
            y[b, o] = value
            index[b, o] = n * BLOCK + pair_first_index(x[n, b], w[n, o], value)


@kernel()
def tile_squared(
    x: Array, w: Array, scaled: Array, lanes: Array, q: int, y: Array, unscale: np.float32, squarings: Exponent,
    b0: int, b1: int, o0: int, o1: int,
) -> None:  # fmt: skip
    """p = 2^n in one pass over scaled inputs; a pair whose sum left the safe range is done again from the raw ones."""
    total = np.zeros((b1 - b0, lanes.shape[3]), np.float32)
    for n in range(len(scaled)):
        block_sum(scaled[n, b0:b1], lanes[n, q], total, squarings)
    for r in range(b1 - b0):
        for j in range(o1 - o0):
            root = total[r, j]
            for _ in range(len(squarings)):
                root = np.sqrt(root)
            y[b0 + r, o0 + j] = root * unscale
        for j in range(o1 - o0):
            if not _LEAST_SUM <= total[r, j] <= _LARGEST_SUM:
                y[b0 + r, o0 + j] = pair_norm(x[b0 + r], w[o0 + j], np.float32(2 ** len(squarings)))


@kernel()
def tile_power(
    x: Array, lanes: Array, q: int, w: Array, y: Array, p: np.float32, cut: np.float32,
    b0: int, b1: int, o0: int, o1: int,
) -> None:  # fmt: skip
    """Any p: the maxima first, then only those blocks whose maximum is at least cut times that of the pair."""
    shape = (b1 - b0, lanes.shape[3])
    blocks, largest = np.zeros((len(x), *shape), np.float32), np.zeros(shape, np.float32)
    for n in range(len(x)):
        block_max(x[n, b0:b1], lanes[n, q], blocks[n])
        for r in range(shape[0]):
            for j in range(shape[1]):
                largest[r, j] = max(largest[r, j], blocks[n, r, j])
    total = np.zeros(shape, np.float32)
    for n in range(len(x)):
        for r in range(shape[0]):
            for j in range(o1 - o0):
                if blocks[n, r, j] >= cut * largest[r, j]:
                    total[r, j] += pair_sum(x[n, b0 + r], w[n, o0 + j], safe_inverse(largest[r, j]), p)
    for r in range(shape[0]):
        for j in range(o1 - o0):
            y[b0 + r, o0 + j] = largest[r, j] * power(total[r, j], _ONE / p)


@kernel()
def tile_bounds(
    lower: Array, upper: Array, lanes: Array, q: int, least: Array, greatest: Array, b0: int, b1: int, o0: int, o1: int
) -> None:
    """Interval bounds; max(|l - w|, |u - w|) and max(l - w, w - u, 0) follow from the ranges of l - w and u - w."""
    shape = (b1 - b0, lanes.shape[3])
    low_least, low_largest = np.full(shape, np.float32(np.inf)), np.full(shape, np.float32(-np.inf))
    high_least, high_largest = np.full(shape, np.float32(np.inf)), np.full(shape, np.float32(-np.inf))
    for n in range(len(lower)):
        block_range(lower[n, b0:b1], lanes[n, q], low_least, low_largest)
        block_range(upper[n, b0:b1], lanes[n, q], high_least, high_largest)
    for r in range(b1 - b0):
        for j in range(o1 - o0):
            outward = max(low_largest[r, j], -high_least[r, j])
            least[b0 + r, o0 + j] = max(outward, _ZERO)
            greatest[b0 + r, o0 + j] = max(outward, max(-low_least[r, j], high_largest[r, j]))


# -- parallel drivers of the forward passes ---------------------------------------------------------------------------


@kernel()
def corners(task: int, samples: int, outputs: int, lanes: int, rows: int) -> tuple[int, int, int, int, int]:
    """Panel q and the ranges b0..b1, o0..o1 of one task; neighbouring tasks share a panel."""
    tiles = (samples + rows - 1) // rows
    q, b0 = task // tiles, task % tiles * rows
    return q, b0, min(b0 + rows, samples), q * lanes, min((q + 1) * lanes, outputs)


@kernel()
def tasks(samples: int, panels: int, rows: int) -> int:
    return panels * ((samples + rows - 1) // rows)


@kernel(parallel=True)
def pack_lanes(w: Array, out: Array) -> None:
    """out[n, q, k, j] = w[q L + j, n BLOCK + k] for w [O, I]; beyond O and I it keeps the zeros it has."""
    for task in prange(out.shape[0] * out.shape[1]):
        n, q = task // out.shape[1], task % out.shape[1]
        o0, i0 = q * out.shape[3], n * BLOCK
        for j in range(min(out.shape[3], w.shape[0] - o0)):
            for k in range(min(BLOCK, w.shape[1] - i0)):
                out[n, q, k, j] = w[o0 + j, i0 + k]


@kernel(parallel=True)
def forward_max(x: Array, lanes: Array, y: Array) -> None:
    for task in prange(tasks(y.shape[0], lanes.shape[1], ROWS)):
        q, b0, b1, o0, o1 = corners(task, y.shape[0], y.shape[1], lanes.shape[3], ROWS)
        tile_max(x, lanes, q, y, b0, b1, o0, o1)


@kernel(parallel=True)
def forward_argmax(x: Array, lanes: Array, w: Array, y: Array, index: NDArray[np.int32]) -> None:
    for task in prange(tasks(y.shape[0], lanes.shape[1], ROWS)):
        q, b0, b1, o0, o1 = corners(task, y.shape[0], y.shape[1], lanes.shape[3], ROWS)
        tile_argmax(x, lanes, q, w, y, index, b0, b1, o0, o1)


@kernel(parallel=True)
def forward_squared(
    x: Array, w: Array, scaled: Array, lanes: Array, y: Array, unscale: np.float32, squarings: Exponent
) -> None:
    for task in prange(tasks(y.shape[0], lanes.shape[1], ROWS)):
        q, b0, b1, o0, o1 = corners(task, y.shape[0], y.shape[1], lanes.shape[3], ROWS)
        tile_squared(x, w, scaled, lanes, q, y, unscale, squarings, b0, b1, o0, o1)


@kernel(parallel=True)
def forward_power(x: Array, lanes: Array, w: Array, y: Array, p: np.float32, cut: np.float32) -> None:
    for task in prange(tasks(y.shape[0], lanes.shape[1], FEW_ROWS)):
        q, b0, b1, o0, o1 = corners(task, y.shape[0], y.shape[1], lanes.shape[3], FEW_ROWS)
        tile_power(x, lanes, q, w, y, p, cut, b0, b1, o0, o1)


@kernel(parallel=True)
def forward_bounds(lower: Array, upper: Array, lanes: Array, least: Array, greatest: Array) -> None:
    for task in prange(tasks(least.shape[0], lanes.shape[1], ROWS)):
        q, b0, b1, o0, o1 = corners(task, least.shape[0], least.shape[1], lanes.shape[3], ROWS)
        tile_bounds(lower, upper, lanes, q, least, greatest, b0, b1, o0, o1)


# -- backward passes --------------------------------------------------------------------------------------------------


@kernel(fastmath={"contract"})
def quad_gradient(
    x: Array, w: Array, grad_x: Array, grad_w: Array, g: Array, inverse: Array, floor: np.float32,
    squarings: Exponent, width: int,
) -> None:  # fmt: skip
    """Gradients of 2 samples x 4 outputs over one wide block: eight powers for six loads and stores of gradients.

    Rows lie WIDE apart in flat arrays: distances known at compile time leave LLVM a handful of overlap checks.
    """
    g0, g1, g2, g3 = g[0, 0], g[0, 1], g[0, 2], g[0, 3]
    h0, h1, h2, h3 = g[1, 0], g[1, 1], g[1, 2], g[1, 3]
    a0, a1, a2, a3 = inverse[0, 0], inverse[0, 1], inverse[0, 2], inverse[0, 3]
    c0, c1, c2, c3 = inverse[1, 0], inverse[1, 1], inverse[1, 2], inverse[1, 3]
    for i in range(width):
        xa, xc = x[i], x[WIDE + i]
        w0, w1, w2, w3 = w[i], w[WIDE + i], w[2 * WIDE + i], w[3 * WIDE + i]
        u0, v0 = odd_power(g0, (xa - w0) * a0, floor, squarings), odd_power(h0, (xc - w0) * c0, floor, squarings)
        u1, v1 = odd_power(g1, (xa - w1) * a1, floor, squarings), odd_power(h1, (xc - w1) * c1, floor, squarings)
        u2, v2 = odd_power(g2, (xa - w2) * a2, floor, squarings), odd_power(h2, (xc - w2) * c2, floor, squarings)
        u3, v3 = odd_power(g3, (xa - w3) * a3, floor, squarings), odd_power(h3, (xc - w3) * c3, floor, squarings)
        grad_x[i] += (u0 + u1) + (u2 + u3)
        grad_x[WIDE + i] += (v0 + v1) + (v2 + v3)
        grad_w[i] -= u0 + v0
        grad_w[WIDE + i] -= u1 + v1
        grad_w[2 * WIDE + i] -= u2 + v2
        grad_w[3 * WIDE + i] -= u3 + v3


@kernel()
def block_backward_squared(
    x: Array, w: Array, grad_x: Array, grad_w: Array, g: Array, inverse: Array, floor: np.float32,
    squarings: Exponent, width: int,
) -> None:  # fmt: skip
    samples, outputs = g.shape
    for start in range(0, samples, ROWS):
        for o in range(0, outputs, 4):
            for b in range(start, min(start + ROWS, samples), 2):
                xs, ws = slice(b * WIDE, (b + 2) * WIDE), slice(o * WIDE, (o + 4) * WIDE)
                pair = slice(b, b + 2), slice(o, o + 4)
                quad_gradient(x[xs], w[ws], grad_x[xs], grad_w[ws], g[pair], inverse[pair], floor, squarings, width)


@kernel(parallel=True)
def backward_squared(
    x: Array, w: Array, grad_x: Array, grad_w: Array, g: Array, inverse: Array, floor: np.float32,
    squarings: Exponent, features: int,
) -> None:  # fmt: skip
    """p = 2^n. A task owns one wide block of inputs and one share of the outputs: grad_x has a slab per share."""
    shares, blocks, outputs = grad_x.shape[0], x.shape[0], g.shape[1]
    per_share = (outputs // 4 + shares - 1) // shares * 4
    for task in prange(shares * blocks):
        share, n = task // blocks, task % blocks
        o0, o1 = min(share * per_share, outputs), min((share + 1) * per_share, outputs)
        width = (min(WIDE, features - n * WIDE) + 15) // 16 * 16
        block_backward_squared(
            x[n].ravel(), w[n, o0:o1].ravel(), grad_x[share, n].ravel(), grad_w[n, o0:o1].ravel(),
            g[:, o0:o1], inverse[:, o0:o1], floor, squarings, width,
        )  # fmt: skip


@kernel()
def block_backward_power(
    x: Array, lanes: Array, w: Array, grad_x: Array, grad_w: Array, g: Array, y: Array, p: np.float32, cut: np.float32
) -> None:
    samples, outputs = g.shape
    for task in range(tasks(samples, len(lanes), ROWS)):
        q, b0, b1, o0, o1 = corners(task, samples, outputs, lanes.shape[2], ROWS)
        largest = np.zeros((b1 - b0, lanes.shape[2]), np.float32)
        block_max(x[b0:b1], lanes[q], largest)
        for b in range(b0, b1):
            for o in range(o0, o1):
                value = largest[b - b0, o - o0]
                if value > _ZERO and value >= cut * y[b, o]:
                    pair_gradient(x[b], w[o], grad_x[b], grad_w[o], g[b, o], safe_inverse(y[b, o]), p - _ONE)


@kernel(parallel=True)
def backward_power(
    x: Array, lanes: Array, w: Array, grad_x: Array, grad_w: Array, g: Array, y: Array, p: np.float32, cut: np.float32
) -> None:
    """Any p: a block of inputs is skipped for the pairs in which it holds nothing above cut times y."""
    for n in prange(len(x)):
        block_backward_power(x[n], lanes[n], w[n], grad_x[n], grad_w[n], g, y, p, cut)


@kernel(parallel=True)
def pull_index(x: Array, w: Array, g: Array, index: NDArray[np.int32], pull: Array, grad_x: Array) -> None:
    """p = inf: pull = g sign(t) at the index, sign(0) = +1, scattered into grad_x [B, I]."""
    for b in prange(pull.shape[0]):
        for o in range(pull.shape[1]):
            i = index[b, o]
            pull[b, o] = g[b, o] if x[b, i] >= w[o, i] else -g[b, o]
            grad_x[b, i] += pull[b, o]


@kernel(parallel=True)
def scatter_index(pull: Array, index: NDArray[np.int32], grad_w: Array) -> None:
    """grad_w[o, index[b, o]] -= pull[b, o], each task owning some outputs."""
    for share in prange((pull.shape[1] + UNROLL - 1) // UNROLL):
        for b in range(pull.shape[0]):
            for o in range(share * UNROLL, min((share + 1) * UNROLL, pull.shape[1])):
                grad_w[o, index[b, o]] -= pull[b, o]
