"""The ReLU network: its convolutions against torch's, its shapes, and bounds that hold for float32 as executed."""

import pytest
import torch
from torch.nn import functional as F

from lib import certify, robust_correct
from lib.nets import layers
from lib.nets.box import Box
from lib.nets.head import Affine, Increasing
from lib.nets.models import ReLUNet
from lib.nets.relunet import CONVOLUTIONS, Conv2d, ReLU, ReLUHead


def drawn(shape: tuple[int, int, int] = (3, 9, 6), units: int = 5, kernel_size: int = 3, stride: int = 2) -> Conv2d:
    layer = Conv2d(shape, units, kernel_size, stride)
    layer.bias.data.normal_()
    return layer.eval()


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 9, 6), (2, 5, 1)])
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize("batch", [0, 1, 4])
def test_a_convolution_is_that_of_torch_on_rows(
    shape: tuple[int, int, int], kernel_size: int, stride: int, batch: int
) -> None:
    torch.manual_seed(0)
    layer, images = drawn(shape, 5, kernel_size, stride).double(), torch.randn(batch, *shape).double()
    n = shape[0] * kernel_size**2
    wanted = F.conv2d(images, layer.weight / n**0.5, layer.bias, padding=1, stride=stride)
    assert wanted.shape[1:] == layer.output_shape
    torch.testing.assert_close(layer(images.flatten(1)), wanted.flatten(1))


def test_training_computes_the_same_values_and_gradients() -> None:
    torch.manual_seed(0)
    layer, v = drawn(), torch.randn(4, 162, requires_grad=True)
    pull = torch.randn_like(layer(v))
    results = []
    for training in (False, True):
        z = layer.train(training)(v)
        results.append((z, *torch.autograd.grad(z, (v, layer.weight, layer.bias), pull)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_no_execution_leaves_the_bounds_of_a_convolution() -> None:
    torch.manual_seed(0)
    layer, lower = drawn((8, 7, 7), 6), torch.randn(5, 8 * 49)
    for width in (0.0, 0.1):
        box = Box(lower, lower + width * torch.rand_like(lower))
        least, greatest = layer.bounds(box)
        for _ in range(30):
            v = torch.lerp(*box, torch.rand_like(lower)).clamp(*box)
            for z in (layer(v), torch.cat([layer(row[None]) for row in v])):
                assert (least <= z.double()).all() and (z.double() <= greatest).all()
        if not width:
            exact = layer.double()(lower.double())
            layer.float()
            assert ((least < exact) & (exact < greatest)).all()
            assert (greatest - least).max() < 1e-3


def test_a_convolution_in_training_mode_has_no_bounds() -> None:
    layer, v = drawn().train(), torch.zeros(1, 162)
    with pytest.raises(ValueError, match="bounds need a convolution in evaluation mode, got training mode"):
        layer.bounds(Box(v, v))


def test_a_bound_of_a_convolution_is_reached_in_a_corner_of_the_box() -> None:
    torch.manual_seed(0)
    layer, lower = drawn((2, 4, 4), 3).double(), torch.randn(1, 32).double()
    box = Box(lower, lower + 0.5)
    matrix = layer(torch.eye(32).double()) - layer(torch.zeros(1, 32).double())  # [inputs, outputs]
    for output, greatest in enumerate(layer.ibp(box).upper[0]):
        corner = torch.where(matrix[:, output] > 0, *reversed(box))
        torch.testing.assert_close(layer(corner)[0, output], greatest)


def test_only_training_calls_a_convolution_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    # which may mix the inputs of several patches before it multiplies, and round as no bound says
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("conv2d")

    net, x = ReLUNet((1, 4, 4), 3, width=2, depth=4, hidden=4), torch.rand(5, 1, 4, 4)
    monkeypatch.setattr(F, "conv2d", refused)
    certify(net, x, torch.arange(5) % 3, 0.1)
    robust_correct(net, x, torch.arange(5) % 3, 0.1, steps=2)
    net.eval()(x)
    with pytest.raises(AssertionError, match="conv2d"):
        net.train()(x)


def test_few_images_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, v = drawn(), torch.randn(7, 162)
    with torch.no_grad():
        whole = layer(v)
        monkeypatch.setattr(layers, "_CPU_PATCHES", 2 * 162 * 9 // 4)
        torch.testing.assert_close(layer(v), whole)


def test_a_large_value_beside_a_patch_does_not_reach_it() -> None:
    layer, image = drawn((1, 8, 8), 4, 3, 1), torch.rand(1, 1, 8, 8)
    loud = image.clone()
    loud[..., 4:] = 1e30
    quiet, shaken = (layer(v.flatten(1)).unflatten(1, layer.output_shape) for v in (image, loud))
    assert torch.equal(quiet[..., :3], shaken[..., :3])


def test_relu_is_exact_and_so_are_its_bounds() -> None:
    v = torch.tensor([[-1.0, -0.0, 0.5, torch.nan]])
    assert torch.equal(ReLU()(v[:, :3]), torch.tensor([[0.0, 0.0, 0.5]])) and ReLU()(v)[0, 3].isnan()
    lower, upper = ReLU().bounds(Box(v[:, :3] - 1, v[:, :3]))
    assert lower.tolist() == [[0, 0, 0]] and upper.tolist() == [[0, 0, 0.5]]
    infinite = torch.tensor([[torch.inf]])
    assert ReLU().bounds(Box(-infinite, infinite)).lower.item() == -torch.inf  # NaN may be executed there


class TestReLUHead:
    @pytest.mark.parametrize("depth", CONVOLUTIONS)
    def test_layers_alternate_and_their_number_is_the_depth(self, depth: int) -> None:
        head = ReLUHead((3, 8, 8), 4, width=2, depth=depth, hidden=6)
        affine, relus = head.hidden_layers()[::2], head.hidden_layers()[1::2]
        assert len(affine) + 1 == depth
        assert all(isinstance(layer, Affine) for layer in affine)
        assert all(isinstance(layer, ReLU) and isinstance(layer, Increasing) for layer in relus)

    @pytest.mark.parametrize(("depth", "flat"), [(4, 32 * 49), (7, 32 * 196)])
    def test_sizes_are_those_of_the_published_nets(self, depth: int, flat: int) -> None:
        head = ReLUHead((1, 28, 28), 10, width=16, depth=depth, hidden=100)
        assert head.fc1.weight.shape == (100, flat)
        assert head.fc2.weight.shape == (10, 100)

    @pytest.mark.parametrize("depth", CONVOLUTIONS)
    def test_a_forward_pass_is_that_of_plain_torch(self, depth: int) -> None:
        torch.manual_seed(0)
        net = ReLUNet((1, 12, 8), 3, width=2, depth=depth, hidden=5, mean=0.4, std=0.3)
        for parameter in net.parameters():
            parameter.data.normal_()
        v = x = torch.rand(6, 1, 12, 8)
        v = (v - 0.4) / 0.3
        for layer, (kernel, stride, _) in zip(net.head.convolutions, CONVOLUTIONS[depth], strict=True):
            weight = layer.weight / (v.shape[1] * kernel**2) ** 0.5
            v = F.conv2d(v, weight, layer.bias, padding=1, stride=stride).relu()
        v = F.linear(v.flatten(1), net.head.fc1.scaled_weight, net.head.fc1.bias).relu()
        torch.testing.assert_close(net(x), F.linear(v, net.head.fc2.scaled_weight, net.head.fc2.bias))

    def test_another_depth_and_images_too_small_are_refused_by_name(self) -> None:
        with pytest.raises(ValueError, match=r"^depth must be one of 4, 7, got 5$"):
            ReLUNet((1, 8, 8), 3, width=2, depth=5, hidden=4)
        assert ReLUNet((1, 8, 8), 3, width=torch.tensor(2), depth=torch.tensor(4), hidden=4).config["depth"] == 4
        with pytest.raises(ValueError, match=r"^input_shape must hold the kernels of depth 4, got \(1, 3, 9\)$"):
            ReLUNet((1, 3, 9), 3, width=2, depth=4, hidden=4)


class TestReach:
    def test_it_is_the_valid_images_within_eps_in_network_units(self) -> None:
        net = ReLUNet((2, 4, 4), 3, width=2, depth=4, hidden=4, mean=(0.2, 0.6), std=0.5)
        x = torch.rand(7, 2, 4, 4)
        x[0], x[1] = 0.0, 1.0
        box = net.reach(net.features(x), 0.3)
        wanted = Box((x - 0.3).clamp(min=0), (x + 0.3).clamp(max=1)).map(net.features)
        for end, expected in zip(box, wanted, strict=True):
            torch.testing.assert_close(end, expected)
        assert torch.equal(box.lower[0], net.features(x)[0])  # black pixels get no blacker, to the bit
        assert torch.equal(box.upper[1], net.features(x)[1])
