"""Lemma A.1: the pyramids of a target, both sides of its inequality, and the targets and grids that are refused."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.theory.pyramids import MOST_PYRAMIDS, Pyramids, Target, pyramids
from tests.theory.targets import peak, random_target

DOUBLE = torch.float64


def points(cover: Pyramids, seed: int) -> Tensor:
    """1,000 random points of the box, and all its corners."""
    d = len(cover.lower)
    inside = torch.rand(1000, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=DOUBLE)] * d).view(-1, d)
    return torch.lerp(cover.lower, cover.upper, torch.cat([inside, corners]))


@given(d=st.integers(1, 3), eps=st.floats(0.2, 3), seed=st.integers(0, 2**31), side=st.floats(0.1, 2))
@settings(deadline=None, max_examples=60)
def test_the_maximum_lies_below_the_target_and_within_eps_of_it(d: int, eps: float, seed: int, side: float) -> None:
    target = random_target(d, seed)
    lower = [-0.3 * j for j in range(d)]
    upper = [low + side * (1 + 0.2 * j) for j, low in enumerate(lower)]
    cover = pyramids(target, lower, upper, eps, DOUBLE)
    x = points(cover, seed)
    error = target(x) - cover.values(x).amax(1)
    assert error.min() >= -1e-12
    assert error.max() <= eps + 1e-12
    cells = [math.ceil((high - low) / eps) for low, high in zip(lower, upper, strict=True)]
    assert len(cover.centers) == len(cover.heights) == math.prod(cells)


@pytest.mark.parametrize(("d", "eps"), [(1, 0.05), (2, 0.1), (3, 0.25)])
def test_the_error_reaches_eps_so_that_no_smaller_one_can_be_promised(d: int, eps: float) -> None:
    tip = torch.full((1, d), 0.5, dtype=DOUBLE)  # a corner of cells: their number along a side is even
    cover = pyramids(peak(tip), [0.0] * d, [1.0] * d, eps, DOUBLE)
    error = 0 - cover.values(tip).amax()
    assert error.item() == pytest.approx(eps)
    assert error > 0.9 * eps


def test_a_grid_that_is_ten_percent_too_coarse_breaks_the_promise() -> None:
    tip = torch.full((1, 2), 0.55, dtype=DOUBLE)
    cover = pyramids(peak(tip), [0.0, 0.0], [1.1, 1.1], 0.11, DOUBLE)
    assert len(cover.centers) == 100
    assert (0 - cover.values(tip).amax()).item() > 0.1 * 1.09


def test_pyramids_touch_the_target_at_their_centres() -> None:
    target = random_target(2, 5)
    cover = pyramids(target, [0, 0], [1, 1], 0.25, DOUBLE)
    assert torch.equal(cover.values(cover.centers).diagonal(), target(cover.centers))


@pytest.mark.parametrize(
    ("lower", "upper", "count"),
    [(0.0, 1.0, 4), ([0.0], [0.26], 2), (torch.zeros(2), torch.tensor([1.0, 0.0]), 4), ([0.0] * 20, [0.2] * 20, 1)],
    ids=["numbers", "a side just above eps", "a flat box", "many dimensions, one cell"],
)
def test_the_number_of_pyramids_is_a_product_of_sides_over_eps(
    lower: list[float], upper: list[float], count: int
) -> None:
    cover = pyramids(lambda x: x[:, 0], lower, upper, 0.25)
    assert len(cover.centers) == count
    assert cover.centers.dtype == torch.get_default_dtype()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(10))
def test_rounding_alone_never_has_a_target_refused(seed: int, dtype: torch.dtype) -> None:
    target = random_target(2, seed)
    cover = pyramids(lambda x: 100 + target(x), [-3, 2], [1, 6], 0.5, dtype)
    assert (cover.heights.dtype, len(cover.heights)) == (dtype, 64)


STEEP: dict[str, Target] = {
    "a plane along one axis": lambda x: 1.1 * x[:, 0],
    "a plane across all axes": lambda x: 1.1 * (x[:, 0] - x[:, 1]) / 2,
    "a cone": lambda x: 1.1 * (x - 0.3).abs().amax(1),
    "the sum of the inputs": lambda x: x.sum(1),
    "a step": lambda x: (x[:, 1] > 0.4).to(x.dtype),
    "the Euclidean norm": lambda x: x.norm(dim=1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.125, 0.3])
@pytest.mark.parametrize("name", STEEP)
def test_a_target_that_is_too_steep_is_refused_with_two_points_that_show_it(
    name: str, eps: float, dtype: torch.dtype
) -> None:
    with pytest.raises(ValueError, match="expected a function that is 1-Lipschitz in l_inf") as refusal:
        pyramids(STEEP[name], [0, 0], [1, 1], eps, dtype)
    shown = str(refusal.value).replace("x' = ", "x = ").split("x = ")[1:]
    x, other = (torch.tensor([json.loads(text[: text.index("]") + 1])], dtype=dtype) for text in shown)
    rise = (STEEP[name](x) - STEEP[name](other)).abs().item()
    assert rise > 1.01 * (x - other).abs().max().item()


def test_a_single_cell_shows_a_steep_plane_at_two_opposite_corners() -> None:
    with pytest.raises(ValueError, match=r"changes by 1.1 from x = \[1.0, 0.0\] to x' = \[0.0, 1.0\]"):
        pyramids(lambda x: 0.55 * (x[:, 0] - x[:, 1]), [0, 0], [1, 1], 1.0)


def test_too_many_pyramids_are_refused_with_their_number_before_the_target_is_asked() -> None:
    def never(x: Tensor) -> Tensor:
        raise AssertionError("asked")

    with pytest.raises(ValueError, match=f"takes 1000000 pyramids, expected at most {MOST_PYRAMIDS}"):
        pyramids(never, [0] * 3, [1] * 3, 0.01)
    with pytest.raises(ValueError, match=f"takes {10**784} pyramids"):
        pyramids(never, [0] * 784, [1] * 784, 0.1)


@pytest.mark.parametrize(
    ("lower", "upper", "eps", "sentence"),
    [
        ([0, 0], [1], 0.1, r"lower and upper must be \[d\] with one d, got \[2\] and \[1\]"),
        ([], [], 0.1, r"got \[0\] and \[0\]"),
        ([[0.0]], [[1.0]], 0.1, r"got \[1, 1\] and \[1, 1\]"),
        ([1.0], [0.0], 0.1, r"lower is \[1.0\] and upper \[0.0\], expected finite, lower <= upper"),
        ([0.0], [math.inf], 0.1, r"upper \[inf\], expected finite"),
        ([math.nan], [1.0], 0.1, r"lower is \[nan\]"),
        ([0.0], [1.0], 0.0, "eps is 0.0, expected a positive number"),
        ([0.0], [1.0], -0.1, "eps is -0.1, expected a positive number"),
        ([0.0], [1.0], math.nan, "eps is nan, expected a positive number"),
        ([0.0], [1.0], 1e-320, "eps is 1e-320, expected a positive number"),
    ],
)
def test_a_box_or_an_eps_that_is_none_is_refused(
    lower: list[float], upper: list[float], eps: float, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        pyramids(lambda x: x[:, 0], lower, upper, eps)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (lambda x: x, r"target must map points \[16, 2\] to values \[16\], got \[16, 2\]"),
        (lambda x: x.sum(), r"to values \[16\], got \[\]"),
        (lambda x: x[:, 0] / 0, r"target is inf at \[0.125, 0.125\], expected finite values"),
    ],
)
def test_a_target_without_one_finite_value_for_each_point_is_refused(target: Target, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pyramids(target, [0, 0], [1, 1], 0.25)
