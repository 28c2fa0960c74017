"""Rademacher complexities: finite classes by enumeration, all bounded nets by matching, small nets by search."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from lib import lp_dist
from lib.theory.approximation import approximate
from lib.theory.complexity import (
    MOST_POINTS,
    cheapest_matching,
    lipschitz_complexity,
    pyramid_complexity,
    rademacher,
    random_signs,
)
from lib.theory.generalisation import massart

DOUBLE = torch.float64


def uniform(n: int, d: int, seed: int) -> Tensor:
    return torch.rand(n, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def by_linear_programming(x: Tensor, s: Tensor, bound: float) -> float:
    """max (1/n) sum_i s_i f_i with |f_i - f_k| <= ||x_i - x_k||_inf and |f_i| <= B."""
    n = len(x)
    pairs = list(itertools.permutations(range(n), 2))
    rows = np.zeros((len(pairs), n))
    for row, (i, k) in zip(rows, pairs, strict=True):
        row[i], row[k] = 1, -1
    limits = [float(lp_dist(x, x)[i, k]) for i, k in pairs]
    solved = linprog(-s.numpy() / n, rows, limits, bounds=(-bound, bound))
    return float(-solved.fun)


class TestAllBoundedNets:
    @given(n=st.integers(2, 9), d=st.integers(1, 3), bound=st.floats(0.01, 2), seed=st.integers(0, 2**31))
    @settings(deadline=None, max_examples=40)
    def test_the_matching_is_the_linear_program_over_the_values(self, n: int, d: int, bound: float, seed: int) -> None:
        x, signs = uniform(n, d, seed), random_signs(2, n, seed)
        wanted = [by_linear_programming(x, s, bound) for s in signs]
        assert lipschitz_complexity(x, signs, bound).tolist() == pytest.approx(wanted, abs=1e-9)

    def test_two_points_by_hand(self) -> None:
        x, signs = torch.tensor([[0.0], [0.3]]), torch.tensor([[1.0, -1.0], [1.0, 1.0]])
        assert lipschitz_complexity(x, signs, 1.0).tolist() == pytest.approx([0.15, 1.0])
        assert lipschitz_complexity(x, signs, 0.1).tolist() == pytest.approx([0.1, 0.1])

    def test_without_a_bound_there_is_no_finite_complexity(self) -> None:
        x, signs = uniform(40, 2, 0), random_signs(200, 40, 0)
        values = torch.stack([lipschitz_complexity(x, signs, bound).mean() for bound in (10, 20, 40)])
        slope = signs.mean(1).abs().mean().item()
        assert ((values[1:] - values[:-1]) / torch.tensor([10, 20])).tolist() == pytest.approx([slope, slope])

    def test_points_further_apart_than_the_range_can_have_any_signs(self) -> None:
        x, signs = torch.arange(12.0)[:, None], random_signs(20, 12, 1)
        assert lipschitz_complexity(x, signs, 0.5).tolist() == pytest.approx([0.5] * 20)
        assert (lipschitz_complexity(x, signs, 0.55) < 0.55 * 0.999).any()

    def test_a_net_of_theorem_4_1_comes_within_eps_of_the_supremum(self) -> None:
        x, (s,) = uniform(12, 1, 3), random_signs(1, 12, 3)
        apart = lp_dist(x, x)
        values = _best_values(x, s, 0.2)
        net = approximate(lambda z: (values - lp_dist(z, x)).amax(1), [0], [1], 0.01, DOUBLE)
        assert ((values[:, None] - values).abs() <= apart + 1e-9).all()
        reached = (s * net(x)[:, 0].clamp(-0.2, 0.2)).mean().item()
        supremum = lipschitz_complexity(x, s[None], 0.2).item()
        assert supremum - 0.01 <= reached <= supremum + 1e-9

    def test_the_cheapest_matching_pairs_neighbours_and_leaves_the_distant_alone(self) -> None:
        x = torch.tensor([[0.0], [0.1], [0.5], [0.9]])
        s = torch.tensor([1.0, -1.0, -1.0, 1.0])
        assert cheapest_matching(x, s, 0.19) == [(0, 1)]
        assert sorted(cheapest_matching(x, s, 0.21)) == [(0, 1), (3, 2)]
        assert cheapest_matching(x, s, 0.04) == []

    def test_a_negative_bound_is_refused(self) -> None:
        with pytest.raises(ValueError, match="bound is -1, expected at least 0"):
            lipschitz_complexity(torch.zeros(2, 1), torch.ones(1, 2), -1)


def _best_values(x: Tensor, s: Tensor, bound: float) -> Tensor:
    n = len(x)
    pairs = list(itertools.permutations(range(n), 2))
    rows = np.array([[(j == i) - (j == k) for j in range(n)] for i, k in pairs], dtype=float)
    limits = [float((x[i] - x[k]).abs().max()) for i, k in pairs]
    return torch.tensor(linprog(-s.numpy(), rows, limits, bounds=(-bound, bound)).x)


class TestSmallNets:
    @pytest.mark.parametrize(("d", "width"), [(1, 1), (2, 3), (2, 64), (3, 8)])
    def test_what_a_search_finds_never_exceeds_the_exact_supremum(self, d: int, width: int) -> None:
        x, signs = uniform(32, d, 5), random_signs(10, 32, 5)
        found = pyramid_complexity(x, signs, 0.3, width, steps=60)
        most = lipschitz_complexity(x, signs, 0.3)
        assert (found <= most + 1e-9).all()
        assert found.mean() > 0

    def test_one_unit_for_each_point_comes_within_a_tenth_of_it(self) -> None:
        x, signs = uniform(32, 2, 6), random_signs(10, 32, 6)
        found = pyramid_complexity(x, signs, 0.3, 32).mean()
        most = lipschitz_complexity(x, signs, 0.3).mean()
        assert 0.9 * most < found <= most

    def test_wider_nets_find_more(self) -> None:
        x, signs = uniform(64, 2, 7), random_signs(20, 64, 7)
        found = [pyramid_complexity(x, signs, 0.3, width, steps=60).mean() for width in (1, 4, 16, 64)]
        assert found == sorted(found)


class TestFiniteClasses:
    def test_a_class_with_all_signs_has_complexity_one_and_a_single_function_none(self) -> None:
        everything = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=5)))
        assert rademacher(everything) == pytest.approx(1)
        assert rademacher(torch.randn(1, 5, dtype=DOUBLE)) == pytest.approx(0, abs=1e-12)

    def test_a_fixed_shift_changes_nothing_as_lemma_a4_needs(self) -> None:
        draw = torch.Generator().manual_seed(0)
        values = torch.randn(20, 10, dtype=DOUBLE, generator=draw)
        shift = torch.randn(10, dtype=DOUBLE, generator=draw)
        assert rademacher(values - shift) == pytest.approx(rademacher(values))
        assert rademacher(1.1 * values) == pytest.approx(1.1 * rademacher(values))

    @pytest.mark.parametrize(("most", "n"), [(1, 6), (1, 12), (2, 12)])
    def test_massarts_lemma_holds_for_unions_of_intervals(self, most: int, n: int) -> None:
        # sign patterns of at most `most` intervals on a line: VC dimension 2 most
        patterns = [
            pattern
            for pattern in itertools.product((-1.0, 1.0), repeat=n)
            if sum(a < b for a, b in itertools.pairwise((-1.0, *pattern))) <= most
        ]
        sauer = sum(math.comb(n, k) for k in range(2 * most + 1))
        assert len(patterns) == sauer == sum(math.comb(n + 1, 2 * k) for k in range(most + 1))
        exact = rademacher(torch.tensor(patterns, dtype=DOUBLE))
        bound = massart(2 * most, n)
        assert 0.3 * bound < exact <= bound

    def test_too_many_points_are_refused(self) -> None:
        with pytest.raises(ValueError, match=f"values are at 17 points, expected at most {MOST_POINTS}"):
            rademacher(torch.zeros(2, 17))


def test_signs_repeat_by_seed_and_are_fair() -> None:
    signs = random_signs(100, 200, 4)
    assert torch.equal(signs, random_signs(100, 200, 4))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean().item()) < 0.03
