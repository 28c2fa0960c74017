"""Numba kernels of the backward pass, both gradients at once; layouts in `cpu_tiles.py`.

A task owns one block of inputs and one share of the outputs; grad_x has a slab per share.
"""

from typing import Any

import numpy as np
from numba import prange

from lib.ops.cpu_tiles import (
    BLOCK,
    ROWS,
    TILE,
    ZERO,
    Array,
    Exponent,
    Indices,
    Rule,
    four_rows,
    powers_of_block,
    store_tile,
    tile_max,
)
from lib.ops.simd import (
    WIDTH,
    at_least,
    first_bit,
    kernel,
    larger,
    load,
    size,
    splat,
    splat_at,
    store,
    where_greater,
    with_sign,
)

# Of simd.py and cpu_tiles.py, as there.
PARTS = "de99b9afc50a253e"

# Samples whose inputs and gradients stay in the first-level cache while a dense pass goes over the outputs, and outputs
# whose pulls are added up apart: sums of sums keep the rounding small.
CHUNK, PART = 64, 256


@kernel()
def odd_power(r: Any, floor: Any, squarings: Exponent) -> Any:
    """r^(2^n - 1) = r r^2 r^4 ..., an odd power, so it carries the sign of r.

    r^2 is raised to `floor`, which keeps subnormal numbers (several times slower) out of terms too small to count.
    """
    product, square = r, larger(r * r, floor)
    for _ in range(len(squarings) - 1):
        product = product * square
        square = square * square
    return product


@kernel()
def pair_gradient(
    x: Array, a: int, w: Array, c: int, grad_x: Array, grad_w: Array, g: Any, inverse: Any, cutoff: Any, rule: Rule
) -> None:
    """Adds u_k = g sign(t_k) (|t_k| inverse)^e to grad_x and takes it from grad_w, t = x - w, where |t| > cutoff."""
    t0, t1 = load(x, a) - load(w, c), load(x, a + WIDTH) - load(w, c + WIDTH)
    d0, d1 = size(t0), size(t1)
    v0, v1 = powers_of_block(d0, d1, inverse, rule)
    u0 = where_greater(d0, cutoff, g * with_sign(v0, t0), splat(ZERO))
    u1 = where_greater(d1, cutoff, g * with_sign(v1, t1), splat(ZERO))
    store(grad_x, a, load(grad_x, a) + u0)
    store(grad_x, a + WIDTH, load(grad_x, a + WIDTH) + u1)
    store(grad_w, c, load(grad_w, c) - u0)
    store(grad_w, c + WIDTH, load(grad_w, c + WIDTH) - u1)


@kernel()
def share_of(task: int, blocks: int, shares: int, units: int) -> tuple[int, int, int, int]:
    """The share and the block of a task, and the units (panels, or pairs of outputs) u0..u1 of the share."""
    share, per_share = task // blocks, (units + shares - 1) // shares
    return share, task % blocks, min(share * per_share, units), min((share + 1) * per_share, units)


@kernel()
def two_outputs_gradient(
    x: Array, w: Array, part: Array, grad_w: Array, g: Array, inverse: Array, floor: np.float32,
    squarings: Exponent, a: int, k: int, count: int, c: int, at: int, samples: int,
) -> None:  # fmt: skip
    """Both gradients of `count` samples, whose blocks start at a, against two outputs: inputs k to k + 16 of the block.

    The weights and their gradients stay in registers; g and inverse [O, B] are read along the samples, grad_x goes to
    `part` [CHUNK, BLOCK].
    """
    w0, w1 = load(w, c), load(w, c + BLOCK)
    grad0 = grad1 = splat(ZERO)
    floors = splat(floor)
    for i in range(k, count * BLOCK, BLOCK):
        here = load(x, a + i)
        u0 = odd_power((here - w0) * splat_at(inverse, at), floors, squarings) * splat_at(g, at)
        u1 = odd_power((here - w1) * splat_at(inverse, at + samples), floors, squarings) * splat_at(g, at + samples)
        store(part, i, load(part, i) + (u0 + u1))
        grad0, grad1 = grad0 - u0, grad1 - u1
        at += 1
    store(grad_w, c, load(grad_w, c) + grad0)
    store(grad_w, c + BLOCK, load(grad_w, c + BLOCK) + grad1)


@kernel()
def move_sum(part: Array, count: int, total: Array, at: int) -> None:
    """Adds the first `count` numbers of `part` to total[at], total[at + 1], ... and leaves zeros."""
    for i in range(0, count, WIDTH):
        store(total, at + i, load(total, at + i) + load(part, i))
        store(part, i, splat(ZERO))


@kernel(parallel=True)
def backward_squared(
    x: Array, w: Array, grad_x: Array, grad_w: Array, g: Array, inverse: Array, floor: np.float32,
    squarings: Exponent, shares: int, blocks: int, samples: int, outputs: int,
) -> None:  # fmt: skip
    """p = 2^n, every term squared out; `outputs` is even."""
    for task in prange(shares * blocks):
        share, n, o0, o1 = share_of(task, blocks, shares, outputs // 2)
        part = np.zeros(CHUNK * BLOCK, np.float32)
        for b in range(0, samples, CHUNK):
            a, count = (n * samples + b) * BLOCK, min(CHUNK, samples - b)
            for first in range(2 * o0, 2 * o1, PART):
                for o in range(first, min(first + PART, 2 * o1), 2):
                    for k in range(0, BLOCK, WIDTH):
                        c, at = (n * outputs + o) * BLOCK + k, o * samples + b
                        two_outputs_gradient(
                            x, w, part, grad_w, g, inverse, floor, squarings, a, k, count, c, at, samples
                        )
                move_sum(part, count * BLOCK, grad_x[share], a)


@kernel(parallel=True)
def backward_power(
    x: Array, lanes: Array, w: Array, grad_x: Array, grad_w: Array, g: Array, inverse: Array, cutoff: Array,
    rule: Rule, shares: int, blocks: int, samples: int, outputs: int,
) -> None:  # fmt: skip
    """Any p: a block of inputs is left out for the pairs in which it holds nothing that reaches the cutoff.

    g, inverse and cutoff [B, P WIDTH]; the cutoff is infinite for outputs that are only padding, or 0 apart.
    """
    panels = (outputs + WIDTH - 1) // WIDTH
    for task in prange(shares * blocks):
        share, n, q0, q1 = share_of(task, blocks, shares, panels)
        slab, peaks = grad_x[share], np.empty(TILE, np.float32)
        for q in range(q0, q1):
            for b in range(0, samples, ROWS):
                r0, r1, r2, r3 = four_rows(b, samples, BLOCK)
                start = n * samples * BLOCK
                rows = r0 + start, r1 + start, r2 + start, r3 + start
                store_tile(tile_max(x, rows, lanes, (q * blocks + n) * BLOCK * WIDTH, BLOCK), peaks, 0, WIDTH)
                for r in range(min(ROWS, samples - b)):
                    at = ((b + r) * panels + q) * WIDTH
                    kept = at_least(load(peaks, r * WIDTH), load(cutoff, at))
                    while kept:
                        j = first_bit(kept)
                        kept &= kept - 1
                        pair_gradient(
                            x, rows[r], w, (n * outputs + q * WIDTH + j) * BLOCK, slab, grad_w,
                            splat(g[at + j]), splat(inverse[at + j]), splat(cutoff[at + j]), rule,
                        )  # fmt: skip


@kernel(parallel=True)
def pull_index(x: Array, w: Array, g: Array, index: Indices, pull: Array, grad_x: Array) -> None:
    """p = inf: pull = g sign(t) at the index, sign(0) = +1, scattered into grad_x [B, I]."""
    for b in prange(pull.shape[0]):
        for o in range(pull.shape[1]):
            i = index[b, o]
            pull[b, o] = g[b, o] if x[b, i] >= w[o, i] else -g[b, o]
            grad_x[b, i] += pull[b, o]


@kernel(parallel=True)
def scatter_index(pull: Array, index: Indices, grad_w: Array) -> None:
    """grad_w[o, index[b, o]] -= pull[b, o], each task owning some outputs."""
    for share in prange((pull.shape[1] + WIDTH - 1) // WIDTH):
        for b in range(pull.shape[0]):
            for o in range(share * WIDTH, min((share + 1) * WIDTH, pull.shape[1])):
                grad_w[o, index[b, o]] -= pull[b, o]
