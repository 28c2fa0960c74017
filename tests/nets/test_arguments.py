"""Numbers of any library become plain ones; what is none is refused by name."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from lib.nets.arguments import integer, real


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_an_integer_of_any_library_is_a_plain_one(value: Any) -> None:
    assert type(integer("width", value, at_least=1)) is int
    assert integer("width", value, at_least=1) == 3


@pytest.mark.parametrize("value", [0.25, Fraction(1, 4), np.float32(0.25), np.array(0.25), torch.tensor(0.25)])
def test_a_number_of_any_library_is_a_plain_one(value: Any) -> None:
    assert type(real("std", value)) is float
    assert real("std", value) == 0.25


@pytest.mark.parametrize("value", [True, np.True_, 3.0, "3", None, torch.tensor([1, 2])])
def test_what_is_no_integer_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="width must be an integer, got "):
        integer("width", value, at_least=1)


def test_an_integer_below_the_least_is_refused() -> None:
    with pytest.raises(ValueError, match="padding must be at least 0, got -1"):
        integer("padding", -1, at_least=0)


def test_an_integer_that_no_machine_counts_to_is_refused() -> None:
    for value in (2**63, 2**64):
        with pytest.raises(ValueError, match=rf"seed must be below 2\^63, got {value}"):
            integer("seed", value, at_least=0)


@pytest.mark.parametrize("value", [0, 2**63 - 1])
def test_the_least_and_the_largest_integer_are_taken(value: int) -> None:
    assert integer("seed", value, at_least=0) == value


@pytest.mark.parametrize(
    "value",
    [False, np.True_, torch.tensor(True), "0.5", np.str_("0.5"), np.array("0.5"), None, (0.5,), torch.tensor([0.5])],
)
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="std must be a number, got "):
        real("std", value)


@pytest.mark.parametrize("value", [math.nan, -math.inf, 10**400, np.float32("inf")])
def test_what_is_not_finite_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="std must be finite, got "):
        real("std", value)
