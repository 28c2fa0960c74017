"""Numba kernels of the backward pass, both gradients at once; layouts in `tiles.py`.

A task owns one block of inputs and one share of the outputs, and works on copies of both, with their sums beside them;
grad_x has a slab per share. Pulls are added up in runs, and runs in sums that carry what rounding them loses: equal
pulls are all rounded the same way, which adds up. Kernels of a pair or a tile are inlined: a call counts its references
to arrays, which takes as long as dozens of terms.
"""

from typing import Any

import numpy as np
from numba import prange

from lib.ops.cpu_shapes import BLOCK, ROWS, WIDTH, Shares
from lib.ops.kernels.simd import (
    aligned,
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
    fill_panel,
    four_rows,
    powers_of_block,
    store_tile,
    tile_max,
)
from lib.ops.powers import Rule

# As in tiles.py.
BUILT_ON = "d067df25e944f232"

# Samples whose inputs and gradients stay in the first-level cache while a dense pass goes over the outputs.
CHUNK = 64


@kernel()
def odd_power(r: Any, floor: Any, squarings: Exponent) -> Any:
    """r^(2^n - 1) = r r^2 r^4 ..., an odd power, so it carries the sign of r.

    r^2 is raised to `floor`, which keeps subnormal numbers (several times slower) out of terms too small to count. The
    sign of r for n = 0.
    """
    if len(squarings) == 0:
        return where_greater(r, splat(ZERO), splat(ONE), where_greater(splat(ZERO), r, splat(-ONE), splat(ZERO)))
    product, square = r, larger(r * r, floor)
    for _ in range(len(squarings) - 1):
        product = product * square
        square = square * square
    return product


@kernel(inline="always")
def pair_gradient(
    x: Array, a: int, w: Array, c: int, x_run: Array, to_x: int, w_run: Array, to_w: int,
    g: Any, inverse: Any, cutoff: Any, rule: Rule, degree: Exponent,
) -> None:  # fmt: skip
    """Adds u_k = g sign(t_k) (|t_k| inverse)^e to x_run and takes it from w_run, t = x - w, where |t| > cutoff."""
    t0, t1 = load(x, a) - load(w, c), load(x, a + WIDTH) - load(w, c + WIDTH)
    d0, d1 = size(t0), size(t1)
    v0, v1 = powers_of_block(d0, d1, inverse, rule, degree)
    u0 = where_greater(d0, cutoff, g * with_sign(v0, t0), splat(ZERO))
    u1 = where_greater(d1, cutoff, g * with_sign(v1, t1), splat(ZERO))
    store(x_run, to_x, load(x_run, to_x) + u0)
    store(x_run, to_x + WIDTH, load(x_run, to_x + WIDTH) + u1)
    store(w_run, to_w, load(w_run, to_w) - u0)
    store(w_run, to_w + WIDTH, load(w_run, to_w + WIDTH) - u1)


@kernel()
def end_run(run: Array, count: int, sums: Array, carries: Array, at: int) -> None:
    """Adds the first `count` numbers of the run to sums[at], sums[at + 1], ... and leaves zeros."""
    for i in range(0, count, WIDTH):
        total, carry = compensated(load(sums, at + i), load(carries, at + i), load(run, i))
        store(sums, at + i, total)
        store(carries, at + i, carry)
        store(run, i, splat(ZERO))


@kernel()
def taken(a: Array, n: int, first: int, end: int, features: int) -> Array:
    """Block n of the rows first..end of a matrix, one after the other."""
    block = aligned((end - first) * BLOCK)
    for row in range(first, end):
        for i in range(0, BLOCK, WIDTH):
            store(block, (row - first) * BLOCK + i, load(a, row * features + n * BLOCK + i))
    return block


@kernel()
def settle(sums: Array, carries: Array, out: Array, n: int, first: int, features: int) -> None:
    """Sums and what they have lost become block n of the rows of `out` from `first` on."""
    for i in range(0, len(sums), BLOCK):
        to = (first + i // BLOCK) * features + n * BLOCK
        store(out, to, load(sums, i) + load(carries, i))
        store(out, to + WIDTH, load(sums, i + WIDTH) + load(carries, i + WIDTH))


@kernel()
def share_of(task: int, blocks: int, shares: int, units: int) -> tuple[int, int, int, int]:
    """The share and the block of a task, and the units (panels, or pairs of outputs) u0..u1 of the share."""
    share, per_share = task // blocks, (units + shares - 1) // shares
    return share, task % blocks, min(share * per_share, units), min((share + 1) * per_share, units)


@kernel(inline="always")
def two_outputs_gradient(
    x: Array, w: Array, x_run: Array, sums: Array, carries: Array, g: Array, inverse: Array, floor: np.float32,
    squarings: Exponent, run: int, a: int, count: int, c: int, k: int, at: int, samples: int,
) -> None:  # fmt: skip
    """Both gradients of `count` samples, whose inputs start at x[a], against two outputs, whose weights start at w[c]:
    sixteen inputs, number k and on of their block.

    The weights and their gradients stay in registers; g and inverse [O, B] are read along the samples, grad_x goes to
    `x_run` [CHUNK, BLOCK].
    """
    w0, w1 = load(w, c), load(w, c + BLOCK)
    sum0, sum1 = load(sums, c), load(sums, c + BLOCK)
    carry0, carry1 = load(carries, c), load(carries, c + BLOCK)
    floors = splat(floor)
    for first in range(0, count, run):
        grad0 = grad1 = splat(ZERO)
        for i in range(first, min(first + run, count)):
            here, b0, b1 = load(x, a + i * BLOCK), at + i, at + samples + i
            u0 = odd_power((here - w0) * splat_at(inverse, b0), floors, squarings) * splat_at(g, b0)
            u1 = odd_power((here - w1) * splat_at(inverse, b1), floors, squarings) * splat_at(g, b1)
            store(x_run, k + i * BLOCK, load(x_run, k + i * BLOCK) + (u0 + u1))
            grad0, grad1 = grad0 - u0, grad1 - u1
        sum0, carry0 = compensated(sum0, carry0, grad0)
        sum1, carry1 = compensated(sum1, carry1, grad1)
    store(sums, c, sum0)
    store(sums, c + BLOCK, sum1)
    store(carries, c, carry0)
    store(carries, c + BLOCK, carry1)


@kernel(parallel=True)
def backward_squared(
    x: Array, w: Array, grad_x: Array, grad_w: Array, g: Array, inverse: Array, floor: np.float32,
    squarings: Exponent, run: int, tasks: Shares,
) -> None:  # fmt: skip
    """p = 2^n, every term squared out; the outputs are even in number."""
    shares, blocks, samples, outputs = tasks
    features = blocks * BLOCK
    for task in prange(shares * blocks):
        share, n, u0, u1 = share_of(task, blocks, shares, outputs // 2)
        x_block, w_block = taken(x, n, 0, samples, features), taken(w, n, 2 * u0, 2 * u1, features)
        x_sums, x_carries = zeros(len(x_block)), zeros(len(x_block))
        w_sums, w_carries = zeros(len(w_block)), zeros(len(w_block))
        x_run = zeros(CHUNK * BLOCK)
        for b in range(0, samples, CHUNK):
            count = min(CHUNK, samples - b)
            for first in range(u0, u1, run):
                for u in range(first, min(first + run, u1)):
                    for k in range(0, BLOCK, WIDTH):
                        two_outputs_gradient(
                            x_block, w_block, x_run, w_sums, w_carries, g, inverse, floor, squarings, run,
                            b * BLOCK + k, count, 2 * (u - u0) * BLOCK + k, k, 2 * u * samples + b, samples,
                        )  # fmt: skip
                end_run(x_run, count * BLOCK, x_sums, x_carries, b * BLOCK)
        settle(x_sums, x_carries, grad_x[share], n, 0, features)
        settle(w_sums, w_carries, grad_w, n, 2 * u0, features)


@kernel()
def lanes_of(block: Array, panels: int) -> Array:
    """The same weights as panels, one after the other."""
    lanes = aligned(panels * WIDTH * BLOCK)
    for q in range(panels):
        fill_panel(block, q, ONE, BLOCK, len(block) // BLOCK, lanes, q * WIDTH * BLOCK)
    return lanes


@kernel(inline="always")
def tile_gradient(
    x: Array, rows: tuple[int, int, int, int], live: int, lanes: Array, w: Array, c: int, x_run: Array, to_x: int,
    w_run: Array, to_w: int, g: Array, inverse: Array, cutoff: Array, at: int, stride: int, rule: Rule,
    degree: Exponent, peaks: Array,
) -> None:  # fmt: skip
    """Both gradients of four samples and one panel, which starts at c in `lanes` and in `w`, of the pairs that reach
    their cutoff; theirs starts at `at`."""
    store_tile(tile_max(x, rows, lanes, c, BLOCK), peaks, 0, WIDTH)
    for r in range(live):
        kept = at_least(load(peaks, r * WIDTH), load(cutoff, at + r * stride))
        while kept:
            j = first_bit(kept)
            kept &= kept - 1
            pair = at + r * stride + j
            pair_gradient(
                x, rows[r], w, c + j * BLOCK, x_run, to_x + r * BLOCK, w_run, to_w + j * BLOCK,
                splat_at(g, pair), splat_at(inverse, pair), splat_at(cutoff, pair), rule, degree,
            )  # fmt: skip


@kernel(parallel=True)
def backward_power(
    x: Array, w: Array, grad_x: Array, grad_w: Array, g: Array, inverse: Array, cutoff: Array,
    rule: Rule, degree: Exponent, run: int, tasks: Shares,
) -> None:  # fmt: skip
    """Any p: a block of inputs is left out for the pairs in which it holds nothing that reaches the cutoff.

    g, inverse and cutoff [B, P WIDTH]; the cutoff is infinite for outputs that are only padding, or 0 apart. A run is
    of `run` samples or outputs, a multiple of WIDTH.
    """
    shares, blocks, samples, outputs = tasks
    panels, features = (outputs + WIDTH - 1) // WIDTH, blocks * BLOCK
    for task in prange(shares * blocks):
        share, n, q0, q1 = share_of(task, blocks, shares, panels)
        o0, o1 = min(q0 * WIDTH, outputs), min(q1 * WIDTH, outputs)
        x_block, w_block = taken(x, n, 0, samples, features), taken(w, n, o0, o1, features)
        lanes, peaks = lanes_of(w_block, q1 - q0), aligned(TILE)
        x_sums, x_carries = zeros(len(x_block)), zeros(len(x_block))
        w_sums, w_carries = zeros(len(w_block)), zeros(len(w_block))
        x_run, w_run = zeros(run * BLOCK), zeros(run * BLOCK)
        for o in range(o0, o1, run):
            for b in range(0, samples, run):
                for q in range(o // WIDTH, min((o + run) // WIDTH, q1)):
                    c, to_w = (q - q0) * WIDTH * BLOCK, (q * WIDTH - o) * BLOCK
                    for s in range(b, min(b + run, samples), ROWS):
                        tile_gradient(
                            x_block, four_rows(s, samples, BLOCK), min(ROWS, samples - s), lanes, w_block, c,
                            x_run, (s - b) * BLOCK, w_run, to_w, g, inverse, cutoff,
                            (s * panels + q) * WIDTH, panels * WIDTH, rule, degree, peaks,
                        )  # fmt: skip
                end_run(x_run, min(run, samples - b) * BLOCK, x_sums, x_carries, b * BLOCK)
                end_run(w_run, min(run, o1 - o) * BLOCK, w_sums, w_carries, (o - o0) * BLOCK)
        settle(x_sums, x_carries, grad_x[share], n, 0, features)
        settle(w_sums, w_carries, grad_w, n, o0, features)


@kernel(parallel=True)
def join_slabs(slabs: Array, shares: int, size: int) -> None:
    """Adds the slabs, `size` numbers each, up in the first."""
    for block in prange(size // BLOCK):
        for i in range(block * BLOCK, (block + 1) * BLOCK, WIDTH):
            total = carry = splat(ZERO)
            for share in range(shares):
                total, carry = compensated(total, carry, load(slabs, share * size + i))
            store(slabs, i, total + carry)


@kernel(parallel=True)
def pull_index(x: Array, w: Array, g: Array, index: Indices, pull: Array, grad_x: Array) -> None:
    """p = inf: pull = g sign(t) at the index, sign(0) = +1, scattered into grad_x [B, I]."""
    for b in prange(pull.shape[0]):
        row = np.zeros(x.shape[1], np.float64)
        for o in range(pull.shape[1]):
            i = index[b, o]
            pull[b, o] = g[b, o] if x[b, i] >= w[o, i] else -g[b, o]
            row[i] += pull[b, o]
        grad_x[b] = row


@kernel(parallel=True)
def scatter_index(pull: Array, index: Indices, grad_w: Array) -> None:
    """grad_w[o, index[b, o]] -= pull[b, o], each task owning some outputs."""
    for share in prange((pull.shape[1] + WIDTH - 1) // WIDTH):
        first, last = share * WIDTH, min((share + 1) * WIDTH, pull.shape[1])
        rows = np.zeros((WIDTH, grad_w.shape[1]), np.float64)
        for b in range(pull.shape[0]):
            for o in range(first, last):
                rows[o - first, index[b, o]] -= pull[b, o]
        grad_w[first:last] = rows[: last - first]
