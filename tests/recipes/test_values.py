"""A radius from a number or a text, and the sentence for what is none."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.recipes import parse_eps


class TestParseEps:
    def test_fraction_is_the_nearest_float(self) -> None:
        assert parse_eps("8/255") == 8 / 255
        assert parse_eps(" 8.8 / 255 ") == 8.8 / 255

    @given(st.floats(0, 1, exclude_min=True, exclude_max=True))
    def test_numbers_and_their_texts_agree(self, eps: float) -> None:
        assert parse_eps(eps) == parse_eps(repr(eps)) == eps

    @given(st.integers(1, 254))
    def test_pixel_steps_are_radii(self, step: int) -> None:
        assert parse_eps(f"{step}/255") == step / 255

    @pytest.mark.parametrize("eps", [0, 0.0, -0.1, 1, 1.0, 255, math.nan, math.inf, "8", "nan", "-1/255", "255/255"])
    def test_outside_the_open_unit_interval_is_refused(self, eps: float | str) -> None:
        with pytest.raises(ValueError, match=r"eps is .*, expected a radius in pixel units with 0 < eps < 1"):
            parse_eps(eps)

    @pytest.mark.parametrize("eps", [Fraction(1, 4), np.float32(0.25), np.array(0.25), torch.tensor(0.25), "1/4"])
    def test_any_real_number_is_a_radius(self, eps: Any) -> None:
        assert type(parse_eps(eps)) is float
        assert parse_eps(eps) == 0.25

    @pytest.mark.parametrize("eps", ["", "eight", "8/0", "1/2/3", "/", "-8/-255", "1_0/255", True, None, [0.3]])
    def test_what_is_no_number_is_refused_by_name(self, eps: Any) -> None:
        with pytest.raises(ValueError, match=r"radius is .*, expected a number or a fraction"):
            parse_eps(eps, "radius")

    @pytest.mark.parametrize("eps", [np.array(True), np.array([0.3]), torch.tensor([0.3])])
    def test_an_array_of_truth_values_or_with_a_dimension_is_refused(self, eps: Any) -> None:
        with pytest.raises(ValueError, match=r"eps is .*, expected a number or a fraction"):
            parse_eps(eps)

    @given(st.text())
    def test_any_text_is_a_radius_or_one_sentence(self, text: str) -> None:
        outcome: float | str
        try:
            outcome = parse_eps(text)
        except ValueError as error:
            outcome = str(error)
        assert 0 < outcome < 1 if isinstance(outcome, float) else outcome.startswith("eps is ")
