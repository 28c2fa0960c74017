"""Lemmas A.7 and A.8: the ReLU networks of a neuron and of a net, their sizes and their values."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from lib import ConvLInfDistNetMLP, LInfDist, LInfDistNet, SortNet, lp_dist
from lib.nets.models import Net
from lib.theory.addernet import with_batch_norm
from lib.theory.approximation import approximate
from lib.theory.relu import ReLULayers, relu_linf_dist_net, relu_linf_distance
from tests.theory.targets import random_target

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def integers(*shape: int) -> Tensor:
    """Whole numbers, on which the arithmetic of both sides is exact."""
    return torch.randint(-50, 51, shape).double()


@pytest.mark.parametrize("n", range(1, 65))
def test_the_distance_in_n_dimensions_is_a_relu_network_of_width_2n_and_logarithmic_depth(n: int) -> None:
    w, x = integers(n), integers(200, n)
    net = relu_linf_distance(w)
    assert torch.equal(net(x), lp_dist(x, w[None]))
    assert net.width == 2 * n
    assert net.depth == 1 + math.ceil(math.log2(n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_equals_the_distance_up_to_rounding_in_its_own_dtype(dtype: torch.dtype) -> None:
    w, x = torch.randn(33, dtype=dtype), torch.randn(500, 33, dtype=dtype)
    net = relu_linf_distance(w)
    torch.testing.assert_close(net(x), lp_dist(x, w[None]), rtol=0, atol=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 33])
def test_each_coordinate_and_each_sign_can_be_the_largest(n: int) -> None:
    w = integers(n)
    x = w + torch.cat([100 * torch.eye(n), -100 * torch.eye(n)]).double()
    assert (relu_linf_distance(w)(x) == 100).all()
    assert (relu_linf_distance(w)(w[None]) == 0).all()


@pytest.mark.parametrize("n", [2, 3, 16, 64])
def test_a_network_without_one_of_its_hidden_units_computes_something_else(n: int) -> None:
    w = integers(n)
    x = w + torch.cat([100 * torch.eye(n), -100 * torch.eye(n)]).double()
    net = relu_linf_distance(w)
    for layer in range(net.depth):
        for unit in range(net.affine[layer].out_features):
            kept = net.affine[layer + 1].weight[:, unit].clone()
            net.affine[layer + 1].weight[:, unit] = 0
            assert not torch.equal(net(x), lp_dist(x, w[None]))
            net.affine[layer + 1].weight[:, unit] = kept
    assert torch.equal(net(x), lp_dist(x, w[None]))


def test_the_network_is_made_of_ordinary_affine_maps() -> None:
    net = relu_linf_distance(integers(5))
    assert all(isinstance(linear, nn.Linear) for linear in net.affine)
    sizes = [(linear.in_features, linear.out_features) for linear in net.affine]
    assert sizes == [(5, 10), (10, 5), (5, 3), (3, 2), (2, 1)]


def stacked(layers: list[LInfDist], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


@pytest.mark.parametrize(("d", "width", "depth"), [(3, 5, 1), (4, 6, 2), (3, 8, 3)])
def test_a_whole_net_is_a_relu_network_of_squared_width(d: int, width: int, depth: int) -> None:
    sizes = [d, *[width] * depth]
    layers = [LInfDist(i, o, bias=True, identity=0).double().eval() for i, o in itertools.pairwise(sizes)]
    for layer in layers:
        layer.bias.data.normal_()
        layer.shift.running_mean.normal_()
    net, x = relu_linf_dist_net(layers), torch.randn(300, d, dtype=DOUBLE)
    torch.testing.assert_close(net(x), stacked(layers, x), rtol=0, atol=1e-12)
    assert net.width == max(2 * i * width for i in sizes[:-1]) <= 2 * width**2
    assert net.depth == sum(1 + math.ceil(math.log2(i)) for i in sizes[:-1])


def test_the_nets_of_theorem_4_1_become_relu_networks_too() -> None:
    g = approximate(random_target(2, 4), [0, 0], [1, 1], 0.5, DOUBLE)
    x = torch.rand(200, 2, dtype=DOUBLE)
    relu = relu_linf_dist_net(list(g.layers))
    torch.testing.assert_close(relu(x), g(x), rtol=0, atol=1e-12)


def test_a_classifier_becomes_one_up_to_its_sign() -> None:
    net = LInfDistNet((1, 2, 3), 4, width=6, depth=3).double().eval()
    images = torch.rand(100, 1, 2, 3, dtype=DOUBLE)
    relu = relu_linf_dist_net([*net.layers, net.top])
    assert isinstance(relu, ReLULayers)
    torch.testing.assert_close(-relu(images.flatten(1)), net(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("w", [torch.zeros(0), torch.zeros(2, 3), torch.tensor(1.0)])
def test_weights_of_another_shape_are_refused(w: Tensor) -> None:
    with pytest.raises(ValueError, match=r"w must be \[n\] with n >= 1, got \["):
        relu_linf_distance(w)


def test_a_net_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="layers is empty, expected at least one distance layer"):
        relu_linf_dist_net([])


@pytest.mark.parametrize(
    ("net", "other"),
    [
        (SortNet((1, 2, 2), 3, width=6, depth=2, keep_prob=0.6), "SortLinear"),
        (with_batch_norm(LInfDistNet((1, 2, 2), 3, width=6, depth=2)), "BatchNorm"),
        (ConvLInfDistNetMLP((1, 2, 2), 3, width=2, hidden=4), "LInfDistConv2d"),
    ],
)
def test_layers_that_compute_something_else_are_refused(net: Net, other: str) -> None:
    with pytest.raises(TypeError, match=f"layers must be l_inf-dist neurons and mean shifts alone, got a {other}"):
        relu_linf_dist_net(net.distance_layers())
