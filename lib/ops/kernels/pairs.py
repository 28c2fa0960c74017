"""Numba kernels of one (sample, output) pair, lanes over inputs; layouts in `tiles.py`."""

from typing import Any

import numpy as np

from lib.ops.cpu_shapes import BLOCK, WIDTH
from lib.ops.kernels.simd import (
    at_least,
    first_bit,
    kernel,
    larger_size,
    largest,
    load,
    size,
    splat,
    total,
    where_greater,
)
from lib.ops.kernels.tiles import ZERO, Array, Exponent, compensated, norm, power, powers_of_block, safe_inverse
from lib.ops.powers import Rule

# As in tiles.py.
BUILT_ON = "d067df25e944f232"

# Terms that are added up one by one, at most: equal ones are all rounded the same way, so sums of runs are compensated.
RUN = 16
# A sum of ratios to the largest is 1 or more, but for roundings; where the ratios are denormal it may come out as less.
LEAST_TOTAL = np.float32(0.75)


@kernel()
def pair_max(x: Array, a: int, w: Array, c: int, count: int) -> np.float32:
    """max_k |x[a + k] - w[c + k]|; `count` is a multiple of BLOCK."""
    m0 = m1 = splat(ZERO)
    for k in range(0, count, BLOCK):
        m0 = larger_size(m0, size(load(x, a + k) - load(w, c + k)))
        m1 = larger_size(m1, size(load(x, a + k + WIDTH) - load(w, c + k + WIDTH)))
    return largest(larger_size(m0, m1))


@kernel()
def pair_sum(x: Array, a: int, w: Array, c: int, cutoff: Any, inverse: Any, rule: Rule, degree: Exponent) -> Any:
    """(|x[a + k] - w[c + k]| inverse)^e of one block summed into sixteen lanes, without the terms below the cutoff."""
    d0, d1 = size(load(x, a) - load(w, c)), size(load(x, a + WIDTH) - load(w, c + WIDTH))
    v0, v1 = powers_of_block(d0, d1, inverse, rule, degree)
    return where_greater(cutoff, d0, splat(ZERO), v0) + where_greater(cutoff, d1, splat(ZERO), v1)


@kernel()
def whole_sum(x: Array, a: int, w: Array, c: int, count: int, inverse: Any, rule: Rule) -> Any:
    """(|x[a + k] - w[c + k]| inverse)^p over `count` inputs, summed into sixteen lanes, without a fit."""
    p, least = splat(rule.exponent), splat(rule.least)
    s = carry = splat(ZERO)
    for first in range(0, count, RUN * WIDTH):
        run = splat(ZERO)
        for k in range(first, min(first + RUN * WIDTH, count), BLOCK):
            v0 = power(size(load(x, a + k) - load(w, c + k)) * inverse, p, least)
            v1 = power(size(load(x, a + k + WIDTH) - load(w, c + k + WIDTH)) * inverse, p, least)
            run = run + (v0 + v1)
        s, carry = compensated(s, carry, run)
    return s + carry


@kernel()
def pair_norm(x: Array, a: int, w: Array, c: int, count: int, rule: Rule) -> np.float32:
    """||x - w||_p, for a rule without a fit, rescaled by its own maximum: neither range nor underflow matters."""
    m = pair_max(x, a, w, c, count)
    inverse = splat(safe_inverse(m))
    return norm_of(m, whole_sum(x, a, w, c, count, inverse, rule), inverse, rule)


@kernel()
def norm_of(m: np.float32, sums: Any, inverse: Any, rule: Rule) -> np.float32:
    """The norm of terms whose largest is m, and whose powers, divided by that of m, were summed into sixteen lanes."""
    s = larger_size(splat(LEAST_TOTAL), splat(total(sums)))
    return largest(norm(s, splat(m), inverse, rule.exponent))


@kernel()
def first_in_span(x: Array, a: int, w: Array, c: int, value: np.float32, count: int) -> int:
    """The first k with |x[a + k] - w[c + k]| >= value; there is one among the `count` <= 64 inputs."""
    found = 0
    for k in range(0, count, BLOCK):
        low = at_least(size(load(x, a + k) - load(w, c + k)), splat(value))
        high = at_least(size(load(x, a + k + WIDTH) - load(w, c + k + WIDTH)), splat(value))
        found |= (low | high << WIDTH) << k
    return first_bit(found)
