"""Proposition A.2: the maps that one neuron realises, and that its constant A cannot be smaller."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.theory.signed_max import Term, Unit, distance_layer, signed_max


def apply(unit: Unit, v: Tensor) -> Tensor:
    return distance_layer([unit], v.dtype)(v)[:, 0]


def inputs(n: int, C: float, seed: int = 0) -> Tensor:
    """500 points of the cube |v_j| <= C, with coordinates at its faces."""
    v = 2 * torch.rand(500, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1
    return C * torch.where(v.abs() > 0.7, v.sign(), v)


@pytest.mark.parametrize(
    ("terms", "weight", "bias"),
    [
        ([Term(1)], [0, -2, 0], -2),
        ([Term(1, -1)], [0, 2, 0], -2),
        ([Term(0, 1, 0.5), Term(2)], [-3, 0, -2.5], -2.5),
        ([Term(0, -1, 0.5), Term(2)], [3, 0, -2.5], -2.5),
    ],
    ids=["projection", "negation", "maximum", "maximum with a negated unit"],
)
def test_the_maps_of_the_proposition_have_the_weights_of_the_reference(
    terms: list[Term], weight: list[float], bias: float
) -> None:
    # C = 1
    assert signed_max(terms, 2 + max(term.offset for term in terms), 3) == Unit(weight, bias)


@given(data=st.data(), n=st.integers(1, 6), C=st.floats(0.1, 10), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=100)
def test_the_neuron_is_the_signed_maximum_on_the_whole_cube(data: st.DataObject, n: int, C: float, seed: int) -> None:
    used = data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True))
    terms = [Term(i, data.draw(st.sampled_from([1, -1])), data.draw(st.floats(-5, 5))) for i in used]
    v = inputs(n, C, seed)
    want = torch.stack([term.sign * v[:, term.unit] + term.offset for term in terms]).amax(0)
    A = 2 * C + max(abs(term.offset) for term in terms)
    torch.testing.assert_close(apply(signed_max(terms, A, n), v), want, rtol=0, atol=1e-13 * A)


@pytest.mark.parametrize("offset", [0.0, -0.5])
def test_a_constant_that_is_ten_percent_smaller_lets_an_unused_unit_win(offset: float) -> None:
    v = torch.tensor(
        [[-1.0, 1.0]], dtype=torch.float64
    )  # C = 1: the used unit at its least, the unused one at its most
    enough = 2 + abs(offset)
    assert apply(signed_max([Term(0, 1, offset)], enough, 2), v).item() == -1 + offset
    assert apply(signed_max([Term(0, 1, offset)], 0.9 * enough, 2), v).item() > -1 + offset


def test_an_input_that_is_ten_percent_larger_breaks_the_maximum() -> None:
    unit, v = signed_max([Term(0)], 2.0, 2), torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    assert apply(unit, v).item() == -1
    assert apply(unit, 1.1 * v).item() > -1.1


def test_copies_of_rounded_values_are_exact() -> None:
    copy = distance_layer([signed_max([Term(0)], 10.0, 1)], torch.float32)
    once = copy(torch.rand(1000, 1))
    again = once
    for _ in range(20):
        again = copy(again)
    assert torch.equal(again, once)


def test_a_layer_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    layer = distance_layer([signed_max([Term(0)], 1.0, 2)])
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.weight.dtype == torch.get_default_dtype()


@pytest.mark.parametrize(
    ("terms", "A", "sentence"),
    [
        ([], 1.0, "terms is empty, expected at least one"),
        ([Term(0), Term(0, -1)], 1.0, r"terms use the units \[0, 0\], expected each at most once"),
        ([Term(3)], 1.0, "a term uses unit 3, expected 0 to 2"),
        ([Term(-1)], 1.0, "a term uses unit -1, expected 0 to 2"),
        ([Term(1, 2)], 1.0, "the sign of unit 1 is 2, expected 1 or -1"),
        ([Term(1, 1, -2.0)], 1.0, r"A is 1.0, expected a finite number of at least max \|c_i\| = 2.0"),
        ([Term(1)], math.nan, "A is nan, expected a finite number"),
        ([Term(1)], math.inf, "A is inf, expected a finite number"),
        ([Term(1, 1, math.nan)], 1.0, "A is 1.0, expected a finite number"),
    ],
)
def test_what_no_neuron_computes_is_refused(terms: list[Term], A: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        signed_max(terms, A, 3)
