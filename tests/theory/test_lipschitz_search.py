"""The search from below: it attains what is attained, and never claims more than was promised."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import LInfDistNet
from lib.nets.base import Execution
from lib.theory.lipschitz import net_lipschitz_bound, steepest_net
from lib.theory.lipschitz_search import diagonal_steepness, empirical_lipschitz, pair_steepness

EXPONENTS = [1, 2, 8, 100, 1000, math.inf]


def random_net(seed: int, depth: int = 3, std: float = 0.25) -> LInfDistNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LInfDistNet((1, 4, 4), 3, width=12, depth=depth, mean=0.4, std=std)


def promise(depth: int, p: float) -> float:
    return net_lipschitz_bound((16, *[12] * (depth - 1)), p)


@given(
    seed=st.integers(0, 2**31),
    depth=st.integers(1, 4),
    p=st.one_of(st.floats(1, 1000), st.just(math.inf)),
    step=st.floats(1e-6, 1),
)
@settings(deadline=None, max_examples=40)
def test_the_search_never_exceeds_the_promise(seed: int, depth: int, p: float, step: float) -> None:
    found = empirical_lipschitz(random_net(seed, depth), p=p, step=step, ascents=2, seed=seed)
    assert 0 <= found <= promise(depth, p)


@pytest.mark.parametrize("seed", range(3))
def test_at_p_inf_the_search_attains_the_promise(seed: int) -> None:
    assert empirical_lipschitz(random_net(seed)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("p", "least"), [(1, 0.4), (2, 0.4), (8, 0.5), (100, 0.9), (1000, 0.99)])
def test_at_finite_p_the_search_finds_a_fair_part_and_beats_its_start(p: float, least: float) -> None:
    net = random_net(0)
    found = empirical_lipschitz(net, p=p)
    assert found >= least * promise(3, p)
    assert found > empirical_lipschitz(net, p=p, ascents=0) or p >= 100


@pytest.mark.parametrize("p", EXPONENTS)
def test_the_constructed_net_attains_the_promise_and_the_search_sees_it(p: float) -> None:
    net = steepest_net(16, width=12, depth=3)
    ones = torch.ones(1, 1, 1, 16)
    bound = net_lipschitz_bound((16, 12, 12), p)
    assert pair_steepness(net, 0.25 * ones, 0.75 * ones, p) == pytest.approx(bound, rel=1e-6)
    assert empirical_lipschitz(net, 0.5 * ones, p) == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("p", EXPONENTS)
def test_far_from_its_weights_every_net_comes_close_to_its_promise(p: float) -> None:
    far = diagonal_steepness(random_net(1), 1e6, p)
    assert 0.999 * promise(3, p) < far <= promise(3, p)


class Stretched(LInfDistNet):
    """Logits a tenth too large, which breaks Fact 3.4."""

    def executed(self, x: torch.Tensor, p: float = math.inf) -> Execution:
        run = super().executed(x, p)
        return run._replace(logits=1.1 * run.logits)


def test_a_net_that_breaks_the_fact_by_a_tenth_is_found_out() -> None:
    net = Stretched((1, 4, 4), 3, width=12, depth=3)
    assert empirical_lipschitz(net) == pytest.approx(1.1, abs=1e-6)


class Inside(LInfDistNet):
    """Answers valid images alone."""

    def executed(self, x: torch.Tensor, p: float = math.inf) -> Execution:
        assert x.min() >= 0 and x.max() <= 1
        return super().executed(x, p)


@pytest.mark.parametrize("images", [torch.zeros(3, 1, 4, 4), torch.ones(3, 1, 4, 4), None])
def test_both_images_of_a_pair_are_valid(images: torch.Tensor | None) -> None:
    empirical_lipschitz(Inside((1, 4, 4), 3, width=12, depth=3), images, 8)


def test_distances_are_in_network_units_whatever_the_std() -> None:
    for std in (0.1, 2.0):
        assert empirical_lipschitz(random_net(3, std=std), step=1e-4) == pytest.approx(1, abs=1e-4)


def test_the_net_and_the_images_are_left_as_they_were() -> None:
    net, images = random_net(0).train(), torch.rand(2, 1, 4, 4)
    before = {name: value.clone() for name, value in net.state_dict().items()}, images.clone()
    empirical_lipschitz(net, images)
    assert net.training
    assert all(torch.equal(before[0][name], value) for name, value in net.state_dict().items())
    assert torch.equal(images, before[1])
    assert not images.requires_grad


def test_a_search_needs_no_gradients_of_its_caller() -> None:
    net, images = random_net(0), torch.rand(2, 1, 4, 4)
    wanted = empirical_lipschitz(net, images)
    with torch.no_grad():
        assert empirical_lipschitz(net, images) == wanted


def test_equal_pairs_do_not_count() -> None:
    images = torch.rand(2, 1, 4, 4)
    assert pair_steepness(random_net(0), images, images) == 0
    moved = torch.stack([images[0], images[1] + 0.1])
    assert pair_steepness(random_net(0), images, moved) > 0


def test_the_search_is_a_function_of_its_seed() -> None:
    net = random_net(0)
    assert empirical_lipschitz(net, p=8, seed=1) == empirical_lipschitz(net, p=8, seed=1)
    assert empirical_lipschitz(net, p=8, seed=1) != empirical_lipschitz(net, p=8, seed=2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"step": 0.0}, "step is 0.0, expected a distance in pixels, 0 < step <= 1"),
        ({"step": 1.5}, "step is 1.5, expected a distance in pixels, 0 < step <= 1"),
        ({"step": math.nan}, "step is nan, expected a distance in pixels, 0 < step <= 1"),
        ({"ascents": -1}, "ascents is -1, expected at least 0"),
        ({"x": torch.empty(0, 1, 4, 4)}, "x has 0 images, expected at least one"),
        ({"x": torch.rand(2, 1, 5, 4)}, r"x must be \[B, 1, 4, 4\]"),
        ({"p": 0.5}, "p must be at least 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        empirical_lipschitz(random_net(0), **arguments)  # type: ignore[arg-type]
