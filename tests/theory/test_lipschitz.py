"""The constants of Section 3: values, attainment, and that nothing exceeds them."""

import csv
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import LInfDistNet, lp_dist
from lib.theory.lipschitz import (
    layer_constants,
    lipschitz_constant,
    local_constants,
    net_lipschitz_bound,
    steepest_net,
    steepest_pair,
    steepness,
)

MNIST = (784, 5120, 5120, 5120, 5120)
CIFAR10 = (3072, 5120, 5120, 5120, 5120, 5120)

# p, 5120^(1/p), the MNIST net, the CIFAR-10 net: the reference's table, with as many digits
TABLE = """\
1,5120,5.4e17,1.1e22
2,71.55,7.3e8,1.0e11
8,2.908,164.6,567.8
100,1.0892,1.504,1.661
1000,1.0086,1.042,1.052
inf,1,1,1
"""

exponents = st.one_of(st.floats(1, 1000), st.just(math.inf))


def significant(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


@pytest.mark.parametrize("row", list(csv.reader(TABLE.splitlines())), ids=lambda row: f"p={row[0]}")
def test_the_constants_are_those_of_the_reference(row: list[str]) -> None:
    p = float(row[0])
    ours = (lipschitz_constant(5120, p), net_lipschitz_bound(MNIST, p), net_lipschitz_bound(CIFAR10, p))
    for value, printed in zip(ours, row[1:], strict=True):
        digits = len(printed.split("e")[0].replace(".", ""))
        assert significant(value, digits) == float(printed)


@pytest.mark.parametrize("n", [1, 2, 784, 5120])
def test_only_p_inf_gives_constant_one_at_every_width(n: int) -> None:
    assert lipschitz_constant(n, math.inf) == 1
    assert (lipschitz_constant(n, 1000) > 1) == (n > 1)


@pytest.mark.parametrize("p", [1, 2, 8, 37.3, 1000, math.inf])
@pytest.mark.parametrize("n", [1, 63, 500])
def test_the_steepest_pair_attains_the_constant(n: int, p: float) -> None:
    w = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, other = steepest_pair(w, 0.25)
    ratio = steepness(x[None], other[None], w[None], p)
    torch.testing.assert_close(ratio, torch.full_like(ratio, lipschitz_constant(n, p)))


@given(n=st.integers(1, 40), p=exponents, seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=60)
def test_no_pair_is_steeper_than_the_constant(n: int, p: float, seed: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    x, w = torch.randn(2, 8, n, dtype=torch.float64, generator=draw)
    other = x + scale * torch.rand(8, n, dtype=torch.float64, generator=draw) + 1e-3
    assert steepness(x, other, w, p).max() <= lipschitz_constant(n, p) * (1 + 1e-9)


@pytest.mark.parametrize(("m", "p"), [(2, 2), (5, 1), (7, 8)])
def test_a_layer_of_equal_neurons_attains_the_layer_constant_in_its_own_norm(m: int, p: float) -> None:
    w = torch.zeros(m, 2, dtype=torch.float64)
    x, other = torch.tensor([[3.0, 4.0], [6.0, 8.0]], dtype=torch.float64)
    moved = torch.linalg.vector_norm(x - other, p)
    response = lp_dist(x[None], w, p) - lp_dist(other[None], w, p)
    ratio = torch.linalg.vector_norm(response, p) / moved
    assert ratio.item() == pytest.approx(m ** (1 / p))


def test_the_two_counterexamples_of_the_reference() -> None:
    one = steepness(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 2), 2)
    assert one.item() == pytest.approx(math.sqrt(2))
    layer = lp_dist(torch.tensor([[3.0, 4.0], [6.0, 8.0]]), torch.zeros(2, 2), 2)
    torch.testing.assert_close(layer, torch.tensor([[5.0, 5.0], [10.0, 10.0]]))


@pytest.mark.parametrize("p", [1.0, 2.0, 8.0, math.inf])
def test_a_net_stays_below_the_product_of_its_layers(p: float) -> None:
    torch.manual_seed(0)
    net = LInfDistNet((1, 4, 4), 3, width=12, depth=3).double().eval()
    x = torch.rand(64, 1, 4, 4, dtype=torch.float64)
    other = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    moved = (x - other).flatten(1).abs().amax(1)
    ratio = (net(x, p) - net(other, p)).abs().amax(1) / moved
    assert ratio.max() <= net_lipschitz_bound((16, 12, 12), p) * (1 + 1e-9)


@given(n=st.integers(1, 40), p=st.floats(1, 1000), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_the_local_constant_is_the_l_1_norm_of_the_gradient_and_below_the_promise(n: int, p: float, seed: int) -> None:
    x, w = torch.randn(2, 3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    local = local_constants(x, w, p)
    assert local.max() <= lipschitz_constant(n, p) * (1 + 1e-9)
    x.requires_grad_()
    slopes = [torch.autograd.grad(lp_dist(x, w, p)[:, k].sum(), x)[0].abs().sum(1) for k in range(3)]
    torch.testing.assert_close(local, torch.stack(slopes, 1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("p", [1, 2, 8, 1000, math.inf])
def test_the_local_constant_is_the_promise_where_all_differences_are_equal(p: float) -> None:
    w = torch.randn(1, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    signs = torch.tensor([[1.0, -1.0] * 15], dtype=torch.float64)
    assert local_constants(w + 3 * signs, w, p).item() == pytest.approx(lipschitz_constant(30, p))


@pytest.mark.parametrize("p", [1.0, 2.0, 8.0, math.inf])
def test_the_constants_of_the_layers_keep_their_promises_and_the_constructed_net_attains_them(p: float) -> None:
    torch.manual_seed(0)
    x, widths = torch.rand(8, 1, 1, 16) + 0.1, (16, 12, 12)
    promised = [lipschitz_constant(n, p) for n in widths]
    random = LInfDistNet((1, 1, 16), 3, width=12, depth=3).eval()
    found = layer_constants(random, x, p)
    assert all(f <= bound * (1 + 1e-5) for f, bound in zip(found, promised, strict=True))
    assert layer_constants(steepest_net(16, 12, 3), torch.ones(1, 1, 1, 16), p) == pytest.approx(promised)


def test_a_net_without_layers_is_the_identity() -> None:
    assert net_lipschitz_bound((), 2) == 1


@pytest.mark.parametrize("p", [0, 0.99, -math.inf, math.nan])
def test_an_exponent_below_one_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=f"p is {p}, expected 1 <= p <= inf"):
        lipschitz_constant(2, p)


def test_a_width_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="n is 0, expected at least one input"):
        net_lipschitz_bound((784, 0), 8)


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan])
def test_a_step_that_is_not_positive_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match=f"step is {step}, expected a positive distance"):
        steepest_pair(torch.zeros(2), step)
