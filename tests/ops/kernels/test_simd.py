import hashlib
import importlib
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numba import njit
from numba.core import caching

from lib.ops.kernels import backward, forward, order, pairs, simd, sparse, tiles

LANES = np.arange(simd.WIDTH, dtype=np.float32)


@pytest.mark.parametrize("kernels", [tiles, pairs, forward, backward, order, sparse])
def test_a_file_of_kernels_changes_with_what_it_imports(kernels: ModuleType) -> None:
    # Otherwise Numba's cache would go on serving kernels compiled from the old parts.
    source = Path(kernels.__file__).read_text()  # type: ignore[arg-type]
    parts = sorted(re.findall(r"^from (lib\.ops\.[\w.]+) import", source, re.M))
    texts = [Path(importlib.import_module(part).__file__).read_bytes() for part in parts]  # type: ignore[arg-type]
    assert parts and hashlib.sha256(b"".join(texts)).hexdigest()[:16] == kernels.BUILT_ON


@njit
def unary(which, a, out):  # type: ignore[no-untyped-def]
    x = simd.load(a, 0)
    if which == 0:
        simd.store(out, 0, simd.size(x))
    elif which == 1:
        simd.store(out, 0, simd.square_root(x))
    elif which == 2:
        simd.store(out, 0, simd.exponent(x))
    elif which == 3:
        simd.store(out, 0, simd.mantissa(x))
    else:
        simd.store(out, 0, simd.splat_at(a, 3))


@njit
def binary(which, a, b, out):  # type: ignore[no-untyped-def]
    x, y = simd.load(a, 0), simd.load(b, 0)
    if which == 0:
        simd.store(out, 0, x + y)
    elif which == 1:
        simd.store(out, 0, x - y)
    elif which == 2:
        simd.store(out, 0, x * y)
    elif which == 3:
        simd.store(out, 0, simd.larger(x, y))
    elif which == 4:
        simd.store(out, 0, simd.lower_depth(simd.with_sign(x, simd.splat(np.float32(-1))), y))
    elif which == 5:
        simd.store(out, 0, simd.larger_size(simd.size(x), y))
    elif which == 6:
        simd.store(out, 0, simd.with_sign(x, y))
    elif which == 7:
        simd.store(out, 0, simd.smaller_size(simd.size(x), y))
    else:
        simd.store(out, 0, simd.where_greater(x, y, x + x, y * y))


@njit
def across(a, b):  # type: ignore[no-untyped-def]
    x, y = simd.load(a, 0), simd.load(b, 0)
    return simd.at_least(x, y), simd.total(x), simd.largest(x)


@njit
def first(mask):  # type: ignore[no-untyped-def]
    return simd.first_bit(mask)


@njit
def offset(indices, place):  # type: ignore[no-untyped-def]
    return simd.offset_at(indices, place)


@njit
def transpose(a, stride, last, scale, out, step):  # type: ignore[no-untyped-def]
    simd.transpose(a, 2, stride, last, scale, out, 3, step)


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        (0, np.abs),
        (1, np.sqrt),
        (2, lambda x: np.floor(np.log2(x.astype(np.float64)) + 0.5)),
        (3, lambda x: x / np.exp2(np.floor(np.log2(x.astype(np.float64)) + 0.5))),
        (4, lambda x: np.full_like(x, x[3])),
    ],
)
def test_operations_of_one_operand_are_those_of_numpy(which: int, wanted: object) -> None:
    x = np.random.default_rng(which).uniform(1e-3, 9, simd.WIDTH).astype(np.float32)
    x = -x if which == 0 else x
    out = np.empty_like(x)
    unary(which, x, out)
    np.testing.assert_array_equal(out, np.asarray(wanted(x), np.float32))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        (0, np.add),
        (1, np.subtract),
        (2, np.multiply),
        (3, np.maximum),
        (4, lambda x, y: np.minimum(-np.abs(x), y)),
        (5, lambda x, y: np.maximum(np.abs(x), y)),
        (6, np.copysign),
        (7, lambda x, y: np.minimum(np.abs(x), y)),
        (8, lambda x, y: np.where(x > y, x + x, y * y)),
    ],
)
def test_operations_of_two_operands_are_those_of_numpy(which: int, wanted: object) -> None:
    x, y = np.random.default_rng(which).standard_normal((2, simd.WIDTH)).astype(np.float32)
    y[:3] = x[:3]
    out = np.empty_like(x)
    binary(which, x, y, out)
    np.testing.assert_array_equal(out, wanted(x, y))  # type: ignore[operator]


def test_comparisons_become_bits_and_lanes_become_numbers() -> None:
    mask, total, largest = across(LANES, np.full_like(LANES, 5))
    assert mask == (1 << simd.WIDTH) - (1 << 5) and total == LANES.sum() and largest == simd.WIDTH - 1
    assert offset(np.array([3, -7, 2**31 - 1], np.int32), 1) == -7
    assert [first(1 << bit) for bit in (0, 7, 40)] == [0, 7, 40] and first(0b1011000) == 3


@pytest.mark.parametrize("rows", [1, 5, simd.WIDTH])
@pytest.mark.parametrize("step", [simd.WIDTH, simd.WIDTH + 3])
def test_a_square_is_transposed_and_its_last_row_repeated(rows: int, step: int) -> None:
    a = np.random.default_rng(rows).standard_normal((rows, simd.WIDTH + 7)).astype(np.float32)
    out = np.full(3 + simd.WIDTH * step, np.nan, np.float32)
    transpose(a.ravel(), a.shape[1], rows - 1, np.float32(0.5), out, step)
    wanted = 0.5 * a[np.minimum(np.arange(simd.WIDTH), rows - 1), 2 : 2 + simd.WIDTH].T
    square = out[3:].reshape(simd.WIDTH, step)
    np.testing.assert_array_equal(square[:, : simd.WIDTH], wanted)
    assert np.isnan(out[:3]).all() and np.isnan(square[:, simd.WIDTH :]).all()


def test_lanes_of_an_array_with_gaps_are_refused() -> None:
    with pytest.raises(TypeError, match="array must be contiguous, got array"):
        unary(0, np.zeros(2 * simd.WIDTH, np.float32)[::2], np.zeros(simd.WIDTH, np.float32))


def test_where_nothing_can_be_written_kernels_are_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    @simd.kernel()
    def successor(n: int) -> int:
        return n + 1

    assert successor(1) == 2
