import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.ops import powers


def in_float32(r: np.ndarray, squarings: int, coefficients: np.ndarray, wide: type = np.float32) -> np.ndarray:
    """Horner's rule and squarings, rounded after each product and sum; with `wide` float64, once for a pair of them."""
    t, value = (r - np.float32(1)).astype(wide), np.full_like(r, coefficients[0])
    for c in coefficients[1:]:
        value = (value.astype(wide) * t + c).astype(np.float32)
    for _ in range(squarings):
        value = value * value
    return value


def errors(exponent: float, squarings: int, coefficients: np.ndarray) -> np.ndarray:
    r = np.linspace(powers.least_ratio(exponent), 1, 5001).astype(np.float32)
    return np.abs(in_float32(r, squarings, coefficients) - r.astype(np.float64) ** exponent)


def degrees(exponent: float) -> set[int]:
    """Those of the kernels on a CPU and on a GPU."""
    return {len(powers.rule(exponent).coefficients) - 1, powers.least_degree(exponent)}


@given(exponent=st.floats(14.01, 2000))
def test_powers_are_four_times_better_than_the_gradients_promise(exponent: float) -> None:
    for degree in degrees(exponent):
        assert errors(exponent, *powers.fit(exponent, degree)).max() <= (exponent + 2) * 2.0**-24


@pytest.mark.parametrize("exponent", [14.5, 40, 127, 200, 1000])
def test_a_degree_below_the_least_would_not_do(exponent: float) -> None:
    r = np.linspace(2.0 ** (-13 / exponent), 1, 5001)
    for less in (0, 1):
        squarings, coefficients = powers.fit(exponent, powers.least_degree(exponent) - less)
        exact = r**exponent
        wrong = np.abs(np.polyval(coefficients.astype(float), r - 1) ** 2.0**squarings - exact) / exact
        assert (wrong.max() <= (exponent + 2) * 2.0**-24) == (less == 0)


@pytest.mark.parametrize("exponent", [14.5, 17, 36.3, 999])
def test_the_promise_would_notice_one_squaring_too_many_or_a_coefficient_that_is_off(exponent: float) -> None:
    squarings, coefficients = powers.fit(exponent, 7)
    assert errors(exponent, squarings + 1, coefficients).max() > (exponent + 2) * 2.0**-24
    wrong = coefficients.copy()
    wrong[-2] *= np.float32(1 + 2.0**-6)
    assert errors(exponent, squarings, wrong).max() > (exponent + 2) * 2.0**-24


@given(exponent=st.floats(14.01, 2000), features=st.integers(1, 8192))
def test_a_sum_of_many_small_terms_is_as_good_as_the_gradients_promise(exponent: float, features: int) -> None:
    # a fit for lower exponents once was hundreds of times worse, for thousands of equal terms beside the largest
    r = np.linspace(powers.least_ratio(exponent), 1, 2001).astype(np.float32)
    exact = 1 + features * r.astype(np.float64) ** exponent
    for degree in degrees(exponent):
        # nearly every processor fuses them
        executed = in_float32(r, *powers.fit(exponent, degree), wide=np.float64)
        wrong = features * np.abs(executed - r.astype(np.float64) ** exponent) / exact
        assert wrong.max() <= (exponent + 1) * 2.0**-23  # half of what the gradients of p = exponent + 1 may be off by


@given(exponent=st.floats(14.01, 5000), features=st.integers(1, 256 * 14))
def test_what_is_cut_off_is_a_quarter_of_what_the_gradients_promise(exponent: float, features: int) -> None:
    assert features * powers.cut_ratio(exponent, features) ** exponent <= exponent * 2.0**-24 * 1.001
    assert powers.cut_ratio(exponent, features) >= powers.least_ratio(exponent)


def test_nothing_is_cut_off_where_there_is_no_fit() -> None:
    assert powers.cut_ratio(14.0, 5120) == 0


@pytest.mark.parametrize("exponent", [14.0, 1.0, math.inf, math.nan])
def test_an_exponent_out_of_range_is_refused_by_value(exponent: float) -> None:
    with pytest.raises(ValueError, match=f"got {exponent}"):
        powers.fit(exponent, 7)
