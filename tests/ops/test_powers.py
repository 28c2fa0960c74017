import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.ops import powers


def in_float32(r: np.ndarray, squarings: int, coefficients: np.ndarray) -> np.ndarray:
    """Horner's rule and squarings with a rounding after every operation, as a kernel without fused ones does it."""
    t, value = (r - np.float32(1)).astype(np.float32), np.full_like(r, coefficients[0])
    for c in coefficients[1:]:
        value = (value * t + c).astype(np.float32)
    for _ in range(squarings):
        value = value * value
    return value


def errors(exponent: float, squarings: int, coefficients: np.ndarray) -> np.ndarray:
    r = np.linspace(powers.least_ratio(exponent), 1, 5001).astype(np.float32)
    return np.abs(in_float32(r, squarings, coefficients) - r.astype(np.float64) ** exponent)


@given(exponent=st.floats(4.01, 2000))
def test_powers_are_four_times_better_than_the_gradients_promise(exponent: float) -> None:
    assert errors(exponent, *powers.fit(exponent)).max() <= (exponent + 2) * 2.0**-24


@pytest.mark.parametrize("exponent", [7, 36.3, 999])
def test_the_promise_would_notice_one_squaring_too_many_or_a_coefficient_that_is_off(exponent: float) -> None:
    squarings, coefficients = powers.fit(exponent)
    assert errors(exponent, squarings + 1, coefficients).max() > (exponent + 2) * 2.0**-24
    wrong = coefficients.copy()
    wrong[-2] *= np.float32(1 + 2.0**-6)
    assert errors(exponent, squarings, wrong).max() > (exponent + 2) * 2.0**-24


def test_terms_that_are_small_are_still_right_relative_to_themselves() -> None:
    for exponent in (7.3, 36.3, 999):
        r = np.linspace(0.5 ** (10 / exponent), 1, 2001).astype(np.float32)
        exact = r.astype(np.float64) ** exponent
        # A sum of many terms of 2^-10 may be off by this, and its root by an exponent-th part of it.
        assert (np.abs(in_float32(r, *powers.fit(exponent)) / exact - 1) < 5e-6 * exponent).all()


@pytest.mark.parametrize("exponent", [4.0, 1.0, math.inf, math.nan])
def test_an_exponent_out_of_range_is_refused_by_value(exponent: float) -> None:
    with pytest.raises(ValueError, match=f"got {exponent}"):
        powers.fit(exponent)
