"""Distance layers: initialisation, convolution, bounds."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from lib.nets import layers
from lib.nets.box import Box
from lib.nets.layers import DistanceLayer, LInfDist, LInfDistConv2d
from lib.nets.normalisation import MeanShift
from lib.nets.sortnet import SortLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_the_unit_of_the_reference() -> None:
    layer = LInfDist(3, 1, bias=True, mean_shift=False, identity=0)
    layer.weight.data = torch.tensor([[0.0, 1.0, 0.0]])
    x = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    u = layer(x)
    u.sum().backward()
    assert u.item() == 3
    assert x.grad.tolist() == [[0, -1, 0]]
    assert layer.weight.grad.tolist() == [[0, 1, 0]]


class TestIdentityInit:
    def test_widening_layers_copy_every_input_modulo_their_number(self) -> None:
        weight = LInfDist(3, 7).weight
        assert [int(row.argmin()) for row in weight] == [0, 1, 2, 0, 1, 2, 0]
        assert (weight.amin(1) == -10).all()

    def test_narrowing_layers_stay_gaussian(self) -> None:
        assert LInfDist(200, 100).weight.amin() > -6

    def test_zero_leaves_the_draw_gaussian(self) -> None:
        assert LInfDist(100, 100, identity=0).weight.amin() > -6

    def test_a_fresh_layer_with_mean_shift_is_nearly_the_centred_identity(self) -> None:
        x = torch.randn(256, 128)
        y = LInfDist(128, 128)(x, 100.0)
        torch.testing.assert_close(y, x - x.mean(0), atol=1e-4, rtol=0)

    def test_convolutions_copy_through_the_centre_tap(self) -> None:
        weight = LInfDistConv2d(2, 4, 3).weight
        assert (weight[torch.arange(4), torch.arange(4) % 2, 1, 1] == -10).all()
        assert (weight == -10).sum() == 4


class TestConvolution:
    @pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 0, 3), (2, 1, 3), (1, 1, 3), (3, 2, 5), (1, 0, 1)])
    def test_equals_a_loop_over_patches(self, stride: int, padding: int, kernel: int) -> None:
        layer = LInfDistConv2d(2, 5, kernel, stride=stride, padding=padding, mean_shift=False, bias=True)
        layer.bias.data.normal_()
        x = torch.randn(3, 2, 7, 8)
        padded = F.pad(x, [padding] * 4)
        out = layer(x)
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                top, left = i * stride, j * stride
                patch = padded[:, None, :, top : top + kernel, left : left + kernel]
                want = (patch - layer.weight).abs().flatten(2).amax(2) + layer.bias
                assert torch.equal(out[:, :, i, j], want)
        assert out.shape == F.conv2d(x, layer.weight, stride=stride, padding=padding).shape

    @pytest.mark.parametrize("p", [8.0, 37.3, math.inf])
    def test_does_not_depend_on_how_many_images_are_cut_into_patches_at_a_time(
        self, p: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layer, x = LInfDistConv2d(2, 5, 3, stride=2, padding=1, mean_shift=False), torch.randn(7, 2, 6, 6)

        def values_and_gradients() -> tuple[torch.Tensor, ...]:
            inputs = x.clone().requires_grad_()
            y = layer(inputs, p)
            return y, *torch.autograd.grad(y.square().sum(), (inputs, layer.weight)), *layer.bounds(Box(x, x + 0.1))

        whole = values_and_gradients()
        monkeypatch.setattr(layers, "_CPU_PATCHES", 350)
        assert len(layer._parts(x)) == 4
        y, of_x, of_weight, *bounds = values_and_gradients()
        assert torch.equal(y, whole[0]) and torch.equal(of_x, whole[1])
        assert all(map(torch.equal, bounds, whole[3:]))
        torch.testing.assert_close(of_weight, whole[2])

    def test_outputs_and_bounds_lie_in_memory_as_those_of_torch_do(self) -> None:
        layer, x = LInfDistConv2d(2, 5, 3, padding=1, bias=True), torch.rand(3, 2, 6, 6)
        for y in (layer(x), layer(x, 8.0), *layer.eval().bounds(Box(x, x + 0.1))):
            assert y.view(3, -1).shape == (3, 180)

    def test_a_kernel_larger_than_the_image_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"x must be as large as a kernel of 5, got \[1, 2, 4, 9\]"):
            LInfDistConv2d(2, 3, 5)(torch.zeros(1, 2, 4, 9))
        assert LInfDistConv2d(2, 3, 5, padding=1)(torch.zeros(1, 2, 3, 9)).shape == (1, 3, 1, 7)

    def test_wrong_channels_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"x must be \[B, 2, H, W\], got \[1, 3, 7, 7\]"):
            LInfDistConv2d(2, 5, 3)(torch.zeros(1, 3, 7, 7))


@pytest.mark.parametrize("layer", [LInfDist(24, 30, bias=True), LInfDistConv2d(2, 5, 3, padding=1, bias=True)])
def test_no_sample_of_a_box_leaves_the_bounds_of_a_layer(layer: LInfDist | LInfDistConv2d) -> None:
    layer.shift.running_mean.normal_()
    layer.bias.data.normal_()
    layer.eval()
    lower = torch.randn(5, 2, 3, 4)
    box = Box(lower, lower + torch.rand_like(lower))
    least, greatest = layer.bounds(box)
    for _ in range(50):
        y = layer(torch.lerp(box.lower, box.upper, torch.rand_like(lower)).clamp(*box))
        assert (least <= y).all()
        assert (y <= greatest).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LInfDist(0, 3), "in_features must be at least 1, got 0"),
        (lambda: LInfDist(3, -1), "out_features must be at least 1, got -1"),
        (lambda: LInfDist(3.0, 3), "in_features must be an integer, got 3.0"),
        (lambda: MeanShift(0), "features must be at least 1, got 0"),
        (lambda: LInfDistConv2d(0, 3, 3), "in_channels must be at least 1, got 0"),
        (lambda: LInfDistConv2d(1, True, 3), "out_channels must be an integer, got True"),
        (lambda: LInfDistConv2d(1, 3, (3, 3)), r"kernel_size must be an integer, got \(3, 3\)"),
        (lambda: LInfDistConv2d(1, 3, 3, stride=0), "stride must be at least 1, got 0"),
        (lambda: LInfDistConv2d(1, 3, 3, padding="same"), "padding must be an integer, got 'same'"),
        (lambda: LInfDistConv2d(1, 3, 3, padding=-1), "padding must be at least 0, got -1"),
        (lambda: SortLinear(4, 3, keep_prob=0.5, top_k=2.5), "top_k must be an integer, got 2.5"),
    ],
)
def test_impossible_layers_are_refused(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        make()


def test_offset_is_what_bias_and_shift_can_add() -> None:
    layer = LInfDist(3, 2, bias=True)
    layer.bias.data = torch.tensor([0.5, -2.0])
    layer.shift.running_mean.copy_(torch.tensor([-3.0, 1.0]))
    assert layer.offset() == 5
    assert LInfDist(3, 2, mean_shift=False).offset() == 0


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mean_shift", [False, True])
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_no_rounding_of_a_layer_exceeds_what_it_declares(kind: str, bias: bool, mean_shift: bool) -> None:
    options = {"bias": bias, "mean_shift": mean_shift, "identity": 0.0}
    layer = LInfDist(1, 400, **options) if kind == "dense" else LInfDistConv2d(1, 400, 1, **options)
    layer.eval().requires_grad_(False)
    layer.weight.fill_(-(2.0**23))  # a difference, a bias and a shift are then rounded to whole numbers
    for constant in (layer.bias, layer.shift and layer.shift.running_mean):
        if constant is not None:
            constant.copy_(4 * torch.rand(400))
    x = torch.rand(2000, 1) if kind == "dense" else torch.rand(2000, 1, 1, 1)
    executed, exact = layer(x).double(), layer.double()(x.double())
    unit = 2**-24 * (executed.abs().max() + layer.offset())
    error = (executed - exact).abs().max() / unit
    assert layer.roundings == 1 + bias + mean_shift
    assert layer.roundings - 1 < error <= layer.roundings


def test_inputs_without_a_batch_are_refused() -> None:
    for layer in (LInfDist(5, 3), SortLinear(5, 3, keep_prob=0.5)):
        with pytest.raises(ValueError, match=r"x must be a batch \[B, \.\.\.\] of inputs, got \[5\]"):
            layer(torch.rand(5))


@pytest.mark.parametrize(
    "layer",
    [LInfDist(4, 3), LInfDistConv2d(4, 3, 1), SortLinear(4, 3, keep_prob=0.5, mean_shift=False)],
    ids=lambda layer: type(layer).__name__,
)
def test_bounds_in_training_mode_are_refused(layer: DistanceLayer) -> None:
    x = torch.rand(2, 4, 1, 1)
    with pytest.raises(ValueError, match=r"bounds need .* in evaluation mode, got training mode"):
        layer.train().bounds(Box(x, x))
    layer.eval().bounds(Box(x, x))


@pytest.mark.parametrize(
    "layer",
    [LInfDist(4, 3), LInfDistConv2d(4, 3, 1), SortLinear(4, 3, keep_prob=0.5)],
    ids=lambda layer: type(layer).__name__,
)
def test_what_is_no_batch_or_no_box_is_refused(layer: DistanceLayer) -> None:
    x = torch.rand(2, 4, 1, 1)
    layer.eval()
    for call, sentence in (
        (lambda: layer(x.numpy()), "x must be a tensor, got ndarray"),
        (lambda: layer.bounds((x, x)), "box must be a Box of lower and upper, got tuple"),
        (lambda: layer.bounds(Box(x, x.numpy())), "upper must be a tensor, got ndarray"),
    ):
        with pytest.raises(TypeError, match=sentence):
            call()
    with pytest.raises(ValueError, match=r"box must have ends of one shape, .*, got \(\[2, 4, .* and \(\[40, 4, "):
        layer.bounds(Box(x, x.repeat(20, 1, 1, 1)))


def test_a_convolution_of_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match=r"x must be floating point, got torch\.uint8"):
        LInfDistConv2d(2, 3, 1)(torch.zeros(1, 2, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("layer", "shown"),
    [
        (LInfDist(3, 4, bias=True, mean_shift=False), "LInfDist(in_features=3, out_features=4, bias=True)"),
        (
            SortLinear(3, 4, keep_prob=0.5, mean_shift=False),
            "SortLinear(in_features=3, out_features=4, bias=False, keep_prob=0.5, top_k=3)",
        ),
        (
            LInfDistConv2d(3, 4, 5, stride=2, mean_shift=False),
            "LInfDistConv2d(in_channels=3, out_channels=4, kernel_size=5, stride=2, padding=0, bias=False)",
        ),
    ],
)
def test_a_layer_prints_what_it_was_built_with(layer: DistanceLayer, shown: str) -> None:
    assert repr(layer) == shown


def test_widths_and_channels_are_those_of_the_weights() -> None:
    for layer in (LInfDist(3, 4), SortLinear(3, 4, keep_prob=0.5)):
        assert (layer.in_features, layer.out_features) == (3, 4)
    convolution = LInfDistConv2d(3, 4, 1)
    assert (convolution.in_channels, convolution.out_channels) == (3, 4)
