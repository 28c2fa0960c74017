"""Theorem 4.1: the promise of the nets, their shape, and that they are 1-Lipschitz nets with sound bounds."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib import Box, LInfDist
from lib.theory.approximation import Approximation, approximate, approximate_literally, approximate_wide
from lib.theory.pyramids import Target
from tests.theory.targets import peak, random_target

DOUBLE = torch.float64
BUILDERS = [approximate, approximate_literally, approximate_wide]
DEEP = BUILDERS[:2]
SHAPES = {  # (width, depth) for m pyramids in d dimensions
    approximate: lambda m, d: (d + 2, 2 * m),
    approximate_literally: lambda m, d: (d + 2, m * (2 * d + 1) + 1),
    approximate_wide: lambda m, d: (m, 2),
}
Builder = Callable[..., Approximation]
builders = pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)


def points(g: Approximation, seed: int) -> Tensor:
    """1,000 random points of the box, its corners, and the centres of the pyramids."""
    lower, upper, centers = g.pyramids.lower, g.pyramids.upper, g.pyramids.centers
    inside = torch.rand(1000, len(lower), dtype=lower.dtype, generator=torch.Generator().manual_seed(seed))
    corners = torch.cartesian_prod(*[lower.new_tensor([0, 1])] * len(lower)).view(-1, len(lower))
    return torch.cat([torch.lerp(lower, upper, torch.cat([inside, corners])), centers])


def keeps_the_promise(g: Approximation, target: Target, eps: float, tol: float, seed: int = 0) -> bool:
    """-tol <= F - g <= eps + tol at all points tried."""
    x = points(g, seed)
    error = target(x) - g(x)[:, 0]
    return bool(error.min() >= -tol and error.max() <= eps + tol)


@builders
@given(d=st.integers(1, 3), cells=st.integers(1, 3), seed=st.integers(0, 2**31), at=st.floats(-2, 2))
@settings(deadline=None, max_examples=25)
def test_random_targets_are_met_from_below_within_eps_at_the_promised_size(
    build: Builder, d: int, cells: int, seed: int, at: float
) -> None:
    target, eps = random_target(d, seed), 1 / cells
    g = build(target, [at] * d, [at + 1] * d, eps, DOUBLE)
    assert keeps_the_promise(g, target, eps, 1e-9, seed)
    m = len(g.pyramids.centers)
    assert (g.width, g.depth) == SHAPES[build](m, d)
    assert g(torch.zeros(5, d, dtype=DOUBLE)).shape == (5, 1)


@pytest.mark.parametrize("build", DEEP, ids=lambda build: build.__name__)
@given(d=st.integers(1, 3), cells=st.integers(1, 3), seed=st.integers(0, 2**31), at=st.floats(-2, 2))
@settings(deadline=None, max_examples=25)
def test_no_unit_exceeds_the_bound_c_anywhere_in_the_box(
    build: Builder, d: int, cells: int, seed: int, at: float
) -> None:
    g = build(random_target(d, seed), [at] * d, [at + 1] * d, 1 / cells, DOUBLE)
    C = g.pyramids.bound * (1 + 1e-12)
    assert all(v.abs().max() <= C for v in g.activations(points(g, seed)))
    box = Box(g.pyramids.lower[None], g.pyramids.upper[None])
    for layer in g.layers:  # every point at once
        box = layer.bounds(box)
        assert box.magnitude.max() <= C


@pytest.mark.parametrize(("d", "eps", "m", "worst"), [(1, 0.05, 20, 0.05), (2, 0.1, 100, 0.1), (3, 0.34, 27, 1 / 3)])
def test_the_sizes_of_the_reference_and_an_error_that_is_attained(d: int, eps: float, m: int, worst: float) -> None:
    cell = 1 / round(m ** (1 / d))
    tip = torch.full((1, d), cell, dtype=DOUBLE)
    g = approximate(peak(tip), [0.0] * d, [1.0] * d, eps, DOUBLE)
    assert len(g.pyramids.centers) == m
    assert (-g(tip)).item() == pytest.approx(worst)
    assert keeps_the_promise(g, peak(tip), worst, 1e-12)


@builders
def test_an_output_ten_percent_of_eps_too_high_or_too_low_is_noticed(build: Builder) -> None:
    tip, eps = torch.full((1, 2), 0.5, dtype=DOUBLE), 0.25
    g = build(peak(tip), [0, 0], [1, 1], eps, DOUBLE)
    assert keeps_the_promise(g, peak(tip), eps, 1e-9)
    for shift in (0.1 * eps, -0.2 * eps):  # too high, then as much too low
        g.layers[-1].bias += shift
        assert not keeps_the_promise(g, peak(tip), eps, 1e-9)


@builders
def test_all_three_nets_are_the_same_function(build: Builder) -> None:
    target = random_target(2, 11)
    g = build(target, [-1, 0], [0.5, 1], 0.3, DOUBLE)
    x = points(g, 0)
    torch.testing.assert_close(g(x)[:, 0], g.pyramids.values(x).amax(1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_does_not_grow_with_depth(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    for cells in (2, 12):
        g = approximate(random_target(2, 3), [0, 0], [1, 1], 1 / cells, dtype)
        x = points(g, 0)
        error = (g(x)[:, 0] - g.pyramids.values(x).amax(1)).abs().max()
        assert g.depth == 2 * cells**2
        assert error <= 8 * g.pyramids.bound * eps


def test_the_default_dtype_is_torchs() -> None:
    g = approximate(random_target(1, 0), [0], [1], 0.5)
    assert g(torch.rand(3, 1)).dtype == torch.get_default_dtype() == torch.float32
    assert keeps_the_promise(g, random_target(1, 0), 0.5, 1e-5)


@builders
def test_the_nets_are_distance_layers_and_1_lipschitz_everywhere(build: Builder) -> None:
    g = build(random_target(2, 7), [0, 0], [1, 1], 0.25, DOUBLE)
    assert all(type(layer) is LInfDist and layer.shift is None for layer in g.layers)
    draw = torch.Generator().manual_seed(0)
    x = 4 * torch.rand(2000, 2, dtype=DOUBLE, generator=draw) - 2  # outside the box, too
    other = x + torch.randn(2000, 2, dtype=DOUBLE, generator=draw) * torch.logspace(-4, 0, 2000, dtype=DOUBLE)[:, None]
    moved = (x - other).abs().amax(1)
    rate = (g(x) - g(other)).abs()[:, 0] / moved
    assert rate.max() <= 1 + 1e-8
    assert rate.max() >= 0.99  # and the constant is attained


def bounded(g: Approximation) -> tuple[Tensor, Box, Box]:
    """500 points in each of 20 boxes of half-width 0.2, [20, 500, 2], the boxes, and what the net says of them."""
    draw, dtype = torch.Generator().manual_seed(0), g.pyramids.lower.dtype
    center = 0.2 + 0.6 * torch.rand(20, 1, 2, dtype=dtype, generator=draw)
    x = center + 0.2 * (2 * torch.rand(20, 500, 2, dtype=dtype, generator=draw) - 1)
    box = Box(x.amin(1), x.amax(1))
    return x, box, g.bounds(box)


@builders
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_point_of_a_box_leaves_the_bounds_and_these_beat_the_lipschitz_constant(
    build: Builder, dtype: torch.dtype
) -> None:
    g = build(random_target(2, 9), [0, 0], [1, 1], 0.25, dtype)
    x, box, (least, greatest) = bounded(g)
    y = g(x.flatten(0, 1)).view(20, 500)
    assert (least <= y).all() and (y <= greatest).all()
    middle, reach = g(box.center), box.halfwidth.amax(1, keepdim=True) + 1e-5
    assert (least >= middle - reach).all() and (greatest <= middle + reach).all()


def test_the_wide_net_bounds_the_maximum_over_a_box_exactly_and_the_deep_one_does_not() -> None:
    build = (random_target(2, 9), [0, 0], [1, 1], 0.25, DOUBLE)
    wide, deep = approximate_wide(*build), approximate(*build)
    _, box, (_, greatest) = bounded(wide)
    nearest = wide.pyramids.centers.clamp(box.lower[:, None], box.upper[:, None])
    attained = wide(nearest.flatten(0, 1)).view(20, -1).amax(1, keepdim=True)
    torch.testing.assert_close(greatest, attained, rtol=0, atol=1e-12)
    assert (deep.bounds(box).upper > attained + 0.05).any()


@builders
def test_gradients_flow_to_the_input_and_there_is_nothing_to_train(build: Builder) -> None:
    g = build(random_target(3, 1), [0] * 3, [1] * 3, 0.5, DOUBLE)
    x = torch.rand(20, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    g(x).sum().backward()
    assert (x.grad.abs().sum(1) == 1).all()  # one coordinate, slope +-1
    assert not any(parameter.requires_grad for parameter in g.parameters())


@builders
def test_what_the_grid_refuses_is_refused_before_a_net_is_built(build: Builder) -> None:
    with pytest.raises(ValueError, match=r"changes by .* from x = \[.*\] to x' = \[.*\], which are .* apart"):
        build(lambda x: x.sum(1), [0, 0], [1, 1], 0.25)
    with pytest.raises(ValueError, match="takes 1000000 pyramids"):
        build(lambda x: x[:, 0], [0] * 3, [1] * 3, 0.01)
    with pytest.raises(ValueError, match="eps is 0, expected a positive number"):
        build(lambda x: x[:, 0], [0], [1], 0)
    assert math.isfinite(float(build(lambda x: x[:, 0], [0], [1], 2.0)(torch.zeros(1, 1))))
