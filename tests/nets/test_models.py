"""The nets: architectures of Tables 5 and 8, normalisation inside, Facts 3.4 and bounds on whole nets."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from lib.nets.base import CompositeNet, PlainNet, margin
from lib.nets.box import Box
from lib.nets.models import ConvLInfDistNetMLP, LInfDistNet, LInfDistNetMLP, Net, ReLUNet, build
from lib.nets.sortnet import SortNet
from lib.recipes import load

SHAPE = (2, 4, 4)


def nets() -> list[Net]:
    torch.manual_seed(0)
    made: list[Net] = [
        LInfDistNet(SHAPE, 5, width=20, depth=3, mean=(0.4, 0.6), std=0.25),
        SortNet(SHAPE, 5, width=20, depth=3, keep_prob=0.7, mean=0.5, std=0.25),
        LInfDistNetMLP(SHAPE, 5, width=20, depth=2, hidden=16, mean=0.5, std=0.25),
        ConvLInfDistNetMLP(SHAPE, 5, width=4, hidden=16, std=0.5),
        ReLUNet(SHAPE, 5, width=4, depth=4, hidden=16, mean=(0.4, 0.6), std=0.5),
    ]
    for net in made:
        for p in (8.0, 100.0):
            net(torch.rand(32, *SHAPE), p)
    return [net.eval() for net in made]


@pytest.mark.parametrize("net", nets(), ids=lambda net: type(net).__name__)
class TestEveryNet:
    def test_gives_logits_for_any_batch(self, net: Net) -> None:
        for size in (0, 1, 7):
            assert net(torch.rand(size, *SHAPE)).shape == (size, 5)

    def test_pixels_of_bytes_are_refused_rather_than_read_as_255_times_as_bright(self, net: Net) -> None:
        images = torch.randint(256, (3, *SHAPE), dtype=torch.uint8)
        for call in (net, net.features, net.activations, lambda x: net.bounds(Box(x, x))):
            with pytest.raises(TypeError, match=r"(x|box) must be floating point, pixels in \[0, 1\], got torch.uint8"):
                call(images)

    def test_what_is_no_dense_tensor_or_no_box_is_refused(self, net: Net) -> None:
        x = torch.rand(3, *SHAPE)
        with pytest.raises(TypeError, match="x must be a tensor, got ndarray"):
            net(x.numpy())
        with pytest.raises(TypeError, match=r"x must be dense, got torch\.sparse_coo"):
            net(x.to_sparse())
        with pytest.raises(TypeError, match="box must be a Box of lower and upper, got tuple"):
            net.bounds((x, x))
        with pytest.raises(TypeError, match="upper must be a tensor, got ndarray"):
            net.bounds(Box(x, x.numpy()))

    def test_images_of_a_larger_dtype_are_refused_and_smaller_ones_are_promoted(self, net: Net) -> None:
        x = torch.rand(3, *SHAPE)
        sentence = r"(x|box) must have the dtype of the net, torch.float32, got torch.float64"
        for call in (net, net.features, net.executed, lambda x: net.bounds(Box(x, x))):
            with pytest.raises(TypeError, match=sentence):
                call(x.double())
        assert torch.equal(net(x.half()), net(x.half().float()))

    def test_the_weights_of_a_call_decide_its_dtype(self, net: Net) -> None:
        x, weights = torch.rand(3, *SHAPE), {name: weight.double() for name, weight in net.named_parameters()}
        assert functional_call(net, weights, (x.double(),)).dtype is torch.float64
        with pytest.raises(TypeError, match=r"x must have the dtype of the net, torch.float64, got torch.float32"):
            functional_call(net, weights, (x,))

    def test_a_net_made_without_values_gets_its_mean_with_its_memory(self, net: Net) -> None:
        with torch.device("meta"):
            empty: Net = type(net)(**net.config)
        filled = empty.half().float().to_empty(device="cpu").eval()
        filled.load_state_dict(net.state_dict())
        x = torch.rand(3, *SHAPE)
        assert torch.equal(filled(x), net(x))

    def test_features_are_1_lipschitz_in_network_units(self, net: Net) -> None:
        x = torch.rand(64, *SHAPE)
        other = (x + 0.1 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        moved = (net.features(x) - net.features(other)).abs().amax(1)
        assert (moved <= (x - other).abs().flatten(1).amax(1) / net.std + 1e-5).all()

    def test_no_image_of_a_box_leaves_the_bounds(self, net: Net) -> None:
        x = torch.rand(16, *SHAPE)
        box = Box((x - 0.05).clamp(min=0), (x + 0.05).clamp(max=1))
        least, greatest = net.bounds(box)
        for _ in range(50):
            logits = net(torch.lerp(*box, torch.rand_like(x).round()).clamp(*box))
            assert (least <= logits).all()
            assert (logits <= greatest).all()

    def test_the_size_of_a_pass_covers_every_executed_distance(self, net: Net) -> None:
        x = torch.rand(16, *SHAPE)
        activations = net.activations(x)
        size = net.executed(x).size
        for layer, value in zip(net.distance_layers(), activations, strict=False):
            assert (value.flatten(1).abs().amax(1) <= size).all()
            shift, layer.shift = layer.shift, None
            assert (layer(value).flatten(1).abs().amax(1) <= size).all()
            layer.shift = shift

    def test_what_a_proof_asks_of_a_pass_is_what_is_executed(self, net: Net) -> None:
        x = torch.rand(5, *SHAPE)
        run = net.executed(x)
        assert torch.equal(run.logits, net(x)) and torch.equal(run.logits, net.logits(net.features(x)))
        assert torch.equal(run.outputs, -run.logits if isinstance(net, PlainNet) else net.features(x))

    def test_splits_its_parameters_into_distance_weights_and_the_rest(self, net: Net) -> None:
        both = net.distance_weights() + net.other_parameters()
        assert len({id(p) for p in both}) == len(both) == len(list(net.parameters()))
        assert all(weight.dim() > 1 for weight in net.distance_weights())

    def test_lists_its_distance_layers_up_to_the_top(self, net: Net) -> None:
        layers = net.distance_layers()
        assert layers == [*net.layers, net.top] if isinstance(net, PlainNet) else layers == list(net.layers)
        assert [id(layer.weight) for layer in layers] == [id(weight) for weight in net.distance_weights()]
        assert net.roundings() == 2 + sum(layer.roundings for layer in layers)

    def test_bounds_of_margins_are_below_those_of_all_images_of_a_box(self, net: Net) -> None:
        x = torch.rand(16, *SHAPE)
        y = net(x).argmax(1)
        box = Box((x - 0.02).clamp(min=0), (x + 0.02).clamp(max=1))
        with torch.no_grad():
            least = net.margin_lb(net.feature_bounds(box), y)
            for _ in range(50):
                logits = net(torch.lerp(*box, torch.rand_like(x).round()).clamp(*box))
                assert (least <= margin(logits, y) + 1e-5).all()

    def test_refuses_images_of_another_shape(self, net: Net) -> None:
        with pytest.raises(ValueError, match=r"x must be \[B, 2, 4, 4\], got \[3, 1, 4, 4\]"):
            net(torch.rand(3, 1, 4, 4))

    def test_refuses_bounds_in_training_mode_and_boxes_turned_inside_out(self, net: Net) -> None:
        box = Box(torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE))
        with pytest.raises(ValueError, match="lower <= upper"):
            net.bounds(Box(box.upper, box.lower))
        for part in (net, net.head.relu if isinstance(net, ReLUNet) else net.layers[0].shift):
            part.train()
            with pytest.raises(ValueError, match="evaluation mode"):
                net.bounds(box)
            net.eval()


def test_a_margin_is_the_difference_to_the_best_of_the_other_logits() -> None:
    logits, y = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), torch.tensor([0, 2])
    assert margin(logits, y).tolist() == [1, -1]
    assert margin(logits, y, rivals=logits + 0.5).tolist() == [0.5, -1.5]


def test_a_net_of_one_layer_refuses_images_of_a_larger_dtype_before_that_layer_too() -> None:
    with pytest.raises(TypeError, match=r"x must have the dtype of the net, torch\.float32, got torch\.float64"):
        LInfDistNet(SHAPE, 3, width=1, depth=1).features(torch.rand(2, *SHAPE).double())


def test_a_net_is_plain_or_composite() -> None:
    assert [isinstance(net, PlainNet) for net in nets()] == [True, True, False, False, False]
    assert [isinstance(net, CompositeNet) for net in nets()] == [False, False, True, True, True]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), depth=st.integers(1, 4), eps=st.floats(0.001, 0.5))
def test_interval_bounds_lie_within_the_lipschitz_ones(seed: int, depth: int, eps: float) -> None:
    torch.manual_seed(seed)
    net = LInfDistNet((1, 3, 3), 4, width=12, depth=depth).eval()
    x = torch.rand(6, 1, 3, 3)
    least, greatest = net.bounds(Box(x - eps, x + eps))
    logits = net(x)
    assert (least >= logits - eps - 1e-4).all()
    assert (greatest <= logits + eps + 1e-4).all()


def test_shapes_and_parameters_of_table_5() -> None:
    with torch.device("meta"):
        mnist = LInfDistNet((1, 28, 28), 10, width=5120, depth=5)
        cifar = LInfDistNet((3, 32, 32), 10, width=5120, depth=6)
        composite = LInfDistNetMLP((3, 32, 32), 10, width=5120, depth=5)
    assert sum(p.numel() for p in mnist.parameters()) == 82_708_490
    assert sum(p.numel() for p in cifar.parameters()) == 120_637_450
    assert sum(w.numel() for w in composite.distance_weights()) == 3072 * 5120 + 4 * 5120**2
    assert mnist.top.bias is not None
    assert mnist.top.shift is None
    assert all(layer.bias is None and layer.shift is not None for layer in mnist.layers)


def test_shapes_of_table_8() -> None:
    with torch.device("meta"):
        net = ConvLInfDistNetMLP((3, 32, 32), 10)
        assert net.features(torch.empty(2, 3, 32, 32)).shape == (2, 512)
    shapes = [tuple(weight.shape[:2]) for weight in net.distance_weights()]
    assert shapes == [(128, 3), (128, 128), (256, 128), (256, 256), (256, 256), (512, 65536)]


@pytest.mark.parametrize("name", ["digits/linf-dist-net", "digits/linf-dist-net-mlp", "digits/sortnet"])
def test_build_follows_the_recipe(name: str) -> None:
    recipe = load(name, "smoke")
    net = build(recipe)
    assert net.input_shape == recipe.input_shape
    assert net.std == recipe.std
    assert len(net.distance_weights()) == recipe.depth
    assert hasattr(net, "head") == (recipe.hidden > 0)


def test_a_seed_decides_the_weights_and_leaves_the_global_generator_in_place() -> None:
    recipe = load("digits/linf-dist-net", "smoke")
    before = torch.get_rng_state()
    seeded = build(recipe, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert all(map(torch.equal, build(recipe).parameters(), seeded.parameters()))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"std": 0.0}, "std must be a positive number, got 0.0"),
        ({"mean": (0.1, math.nan)}, "mean must be finite, got nan"),
        ({"identity": math.inf}, "identity must be finite, got inf"),
        ({"std": 10**400}, "std must be finite, got 1000"),
        ({"mean": (0.1, 0.2, 0.3)}, r"mean must be one number or 2 \(one per channel\), got 3"),
    ],
)
def test_impossible_nets_are_refused(wrong: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LInfDistNet(SHAPE, **({"num_classes": 5, "width": 4, "depth": 2} | wrong))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"width": 4.0}, "width must be an integer, got 4.0"),
        ({"depth": True}, "depth must be an integer, got True"),
        ({"num_classes": "5"}, "num_classes must be an integer, got '5'"),
        ({"mean": "0.5"}, "mean must be a number, got '0.5'"),
        ({"mean": None}, "mean must be a number, got None"),
        ({"mean": ("0.5", 0.5)}, "mean must be a number, got '0.5'"),
        ({"std": (0.2, 0.2)}, r"std must be a number, got \(0.2, 0.2\)"),
        ({"identity": "a"}, "identity must be a number, got 'a'"),
    ],
)
def test_arguments_of_another_kind_are_refused(wrong: dict, sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        LInfDistNet(SHAPE, **({"num_classes": 5, "width": 4, "depth": 2} | wrong))


@pytest.mark.parametrize("number", [np.float32, np.float64, torch.tensor, np.array])
def test_numbers_of_other_libraries_build_the_same_net(number: Callable) -> None:
    shape, whole = tuple(map(np.int64, SHAPE)), np.int32
    net = SortNet(
        shape, whole(5), width=whole(6), depth=whole(4), keep_prob=number(0.5), mean=number(0.25), std=number(0.5)
    )
    plain = SortNet(SHAPE, 5, width=6, depth=4, keep_prob=0.5, mean=0.25, std=0.5)
    assert json.loads(json.dumps(net.config)) == plain.config == net.config
    assert torch.equal(net.normalize.mean, plain.normalize.mean)


@pytest.mark.parametrize("shape", [(1, -4, -4), (0, 4, 4), (4, 4), 16, (1, 4.0, 4)])
def test_an_image_has_channels_height_and_width(shape: object) -> None:
    with pytest.raises(
        (TypeError, ValueError), match="input_shape must be channels, height and width of at least 1, got"
    ):
        LInfDistNet(shape, 5, width=4, depth=2)  # type: ignore[arg-type]


def test_a_head_is_asked_about_a_box_that_is_wider_by_what_flushing_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    net, asked = LInfDistNetMLP((1, 1, 1), 2, width=1, depth=1, hidden=1).eval(), list[Box]()
    monkeypatch.setattr(net.head, "margin_lb", lambda box, y: asked.append(box))
    net.margin_lb(Box(torch.zeros(1, 1), torch.zeros(1, 1)), torch.tensor([0]))
    assert -asked[0].lower.item() == asked[0].upper.item() == net.flushed() > 0
