import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad

import lib
from lib import Box, LInfDistNet, LInfDistNetMLP, certify, prune, recipes, save
from lib.nets import chain
from lib.nets.layers import LInfDist
from lib.nets.normalisation import Normalize
from lib.nets.pruned import PrunedDist, lists_take
from lib.nets.sortnet import SortLinear
from lib.ops.kernels import sparse as sparse_kernels
from lib.robustness.inputs import pixel_box
from lib.theory.addernet import with_batch_norm
from lib.training.data import batch, load_data

MNIST_NET = Path(__file__).resolve().parent.parent.parent / "results/mnist/linf-dist-net/laptop-0.safetensors"
Net = LInfDistNet | LInfDistNetMLP


def random_net(seed: int, width: int, depth: int, levels: int, head: bool) -> Net:
    """A net with `levels` values per weight: few make ties, one makes all weights equal, none leaves them random."""
    generator = torch.Generator().manual_seed(seed)
    common = {"width": width, "depth": depth, "mean": 0.4, "std": 0.3}
    net = LInfDistNetMLP((1, 3, 5), 4, hidden=5, **common) if head else LInfDistNet((1, 3, 5), 4, **common)
    for tensor in net.state_dict().values():
        draw = 2 * torch.randn(tensor.shape, generator=generator)
        tensor.copy_(draw if not levels else (draw * levels / 4).round() * 4 / levels if levels > 1 else 0.75)
    return net.eval().requires_grad_(False)


def random_images(seed: int, count: int) -> Tensor:
    """Valid images with many pixels at the ends of their range, where bounds are attained."""
    generator = torch.Generator().manual_seed(seed)
    return (1.6 * torch.rand(count, 1, 3, 5, generator=generator) - 0.3).clamp(0, 1)


def assert_equal(net: Net, pruned: Net, x: Tensor, eps: float) -> None:
    """Logits, whole and by way of the features, and bounds."""
    assert torch.equal(net(x), pruned(x))
    assert torch.equal(net.logits(net.features(x)), pruned.logits(pruned.features(x)))
    box = pixel_box(x, eps)
    for a, b in zip(net.bounds(box), pruned.bounds(box), strict=True):
        assert torch.equal(a, b)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    width=st.integers(1, 40),
    depth=st.integers(1, 4),
    levels=st.sampled_from([0, 1, 2, 5]),
    head=st.booleans(),
    count=st.integers(1, 70),
    eps=st.floats(1e-6, 0.99),
)
def test_logits_and_bounds_are_equal_on_valid_images(
    seed: int, width: int, depth: int, levels: int, head: bool, count: int, eps: float
) -> None:
    net, x = random_net(seed, width, depth, levels, head), random_images(seed, count)
    assert_equal(net, prune(net), x, eps)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_large_batch_in_a_small_box_leaves_out_more_and_changes_nothing(seed: int, head: bool) -> None:
    net, x = random_net(seed, 40, 3, 0, head), random_images(seed, 600)
    ends = random_images(seed + 1, 2)
    x = ends.amin(0) + (ends.amax(0) - ends.amin(0)) * x
    pruned = prune(net)
    pixels, lists = x.flatten(1).numpy(), pruned.normalize.lists
    narrow, _ = sparse_kernels.within_box(pixels, pixels, lists, 2)
    assert narrow.kept().sum() < 0.9 * lists.kept().sum()
    assert_equal(net, pruned, x, 0.01)


@pytest.mark.parametrize("head", [False, True])
def test_the_whole_valid_box_and_its_corners_are_covered(head: bool) -> None:
    net = random_net(3, 20, 3, 0, head)
    corners = torch.randint(0, 2, (200, 1, 3, 5), generator=torch.Generator().manual_seed(1)).float()
    assert_equal(net, prune(net), corners, 1.0)


def test_each_channel_has_a_mean_of_its_own() -> None:
    torch.manual_seed(0)
    net = LInfDistNet((3, 2, 5), 4, width=20, depth=2, mean=(0.1, 0.4, 0.8), std=0.3).eval()
    assert_equal(net, prune(net), torch.rand(60, 3, 2, 5), 0.1)


def test_exactly_the_weights_that_can_exceed_the_least_distance_are_kept() -> None:
    layer = LInfDist(3, 2, mean_shift=False)
    layer.weight.data = torch.tensor([[-4.0, 3.5, 2.0], [0.0, 0.0, 0.0]])
    box = Box(torch.tensor([[-1.0, 0.0, -2.0]]), torch.tensor([[1.0, 1.0, 2.0]]))
    # Unit 0: least 3 (from -1 + 4); greatest per weight 5, 3.5, 4. Unit 1: least 0; 1, 1, 2.
    pruned = PrunedDist(layer.eval().requires_grad_(False), box, torch.tensor([True, True]))
    assert pruned.kept().tolist() == [[True, True, True], [True, True, True]]
    layer.weight.data[0] = torch.tensor([-4.0, 2.5, 1.0])
    pruned = PrunedDist(layer, box, torch.tensor([True, False]))
    # Now the greatest are 5, 2.5 and 3, no more than the least.
    assert pruned.kept().tolist() == [[True, False, False], [False, False, False]]


def test_its_layers_print_as_those_they_were_made_from() -> None:
    net = random_net(0, 12, 2, 0, False)
    shown = repr(net).replace("LInfDist(", "PrunedDist(").replace("Normalize(", "ValidPixels(")
    assert repr(prune(net)) == shown


def test_units_that_nobody_reads_keep_no_weights() -> None:
    net = random_net(0, 12, 2, 0, False)
    assert isinstance(net, LInfDistNet)
    net.top.weight[:, 5] = net.layers[0].bounds(whole_box(net)).center[0, 5]  # as near as can be: never the farthest
    net.top.weight[:, 0] = 100
    pruned = prune(net)
    assert not pruned.layers[0].kept()[5].any() and pruned.layers[0].kept()[0].any()
    assert_equal(net, pruned, random_images(0, 40), 0.2)


def whole_box(net: Net) -> Box:
    black = torch.zeros(1, *net.input_shape)
    return net.normalize.bounds(Box(black, black + 1)).map(lambda v: v.flatten(1))


def test_the_net_it_was_made_from_is_left_alone() -> None:
    net = random_net(0, 12, 2, 0, False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    pruned = prune(net)
    assert torch.equal(torch.get_rng_state(), state)
    pruned.layers[0].weight.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert type(net.layers[0]) is LInfDist


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("method", ["margin", "interval"])
def test_certificates_are_equal(head: bool, method: lib.robustness.certify.Method) -> None:  # type: ignore[name-defined]
    net, x = random_net(1, 30, 2, 0, head), random_images(1, 50)
    y = net(x).argmax(1)
    wanted = certify(net, x, y, 1e-3, method)
    assert wanted.certified.any()
    for a, b in zip(certify(prune(net), x, y, 1e-3, method), wanted, strict=True):
        # constants in place of units that nobody reads may be larger, or smaller, than what those would give
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert a.dtype is not torch.bool or torch.equal(a, b)


@pytest.mark.parametrize("head", [False, True])
def test_a_pruned_net_is_saved_as_the_net_it_was_made_from(head: bool, tmp_path: Path) -> None:
    net, x = random_net(2, 10, 2, 0, head), random_images(2, 5)
    lib.save(prune(net), tmp_path / "net")
    assert torch.equal(lib.load(tmp_path / "net")(x), net(x))
    assert_equal(net, prune(prune(net)), x, 0.1)


def test_gradients_and_other_dtypes_are_those_of_the_whole_net() -> None:
    net, x = random_net(4, 10, 2, 0, False), random_images(4, 5)
    pruned, gradients = prune(net), []
    for each in (net, pruned):
        image = x.clone().requires_grad_()
        each(image).sum().backward()
        gradients.append(image.grad)
    assert torch.equal(*gradients)  # type: ignore[arg-type]
    for each in (net, pruned):
        each.top.weight.requires_grad_()
    assert torch.equal(*(torch.autograd.grad(each(x).sum(), each.top.weight)[0] for each in (net, pruned)))
    assert torch.equal(pruned.double()(x.double()), net.double()(x.double()))
    assert torch.equal(pruned(x), net(x)) and pruned(x).dtype is torch.float64  # smaller images are promoted
    assert {tensor.dtype for tensor in (*pruned.parameters(), *pruned.buffers())} == {torch.float64}


def test_lists_are_taken_for_float32_on_the_cpu_without_gradients_alone() -> None:
    pruned, x = prune(random_net(4, 10, 2, 0, False)), random_images(4, 5)
    layers, leaf = [*pruned.layers, pruned.top], x.clone().requires_grad_()
    assert lists_take(layers, x) and lists_take(layers, x[:1], x) and lists_take([pruned.top], pruned.features(x))
    for other in (leaf, x.double(), x[:0], x[..., 1:]):
        assert not lists_take(layers, other) and not lists_take(layers, x, other)
    with forward_ad.dual_level():
        assert not lists_take(layers, forward_ad.make_dual(x, x))
    pruned.top.weight.requires_grad_()
    assert not lists_take(layers, x)
    with torch.no_grad():
        assert lists_take(layers, leaf)


def test_a_pruned_net_passes_all_its_layers_in_one_call_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pruned, x, calls = prune(random_net(4, 10, 3, 0, False)), random_images(4, 5), list[int]()
    for name in ("linf_dist_of_pixels", "linf_dist_bounds_of_pixels"):
        whole = getattr(chain, name)
        monkeypatch.setattr(chain, name, lambda *given, whole=whole: calls.append(len(given)) or whole(*given))
    pruned(x), pruned.executed(x), pruned.bounds(Box(x, x))
    assert calls == [2, 2, 3]


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_inference_mode_changes_nothing(head: bool, inside: bool) -> None:
    net, x = random_net(4, 10, 2, 0, head), random_images(4, 300)
    with torch.inference_mode():
        made = copy.deepcopy(net)  # of tensors that count no writes
    with torch.inference_mode(inside):
        for each in (net, made):
            pruned = prune(each)
            assert_equal(net, pruned, x, 0.1)
            for again in (copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned)), pruned.double().float()):
                assert_equal(net, again, x, 0.1)
            pruned.top.weight.add_(1) if not head else pruned.layers[0].weight.add_(1)
            with pytest.raises(ValueError, match="pruned net must keep its layers, weights"):
                pruned(x)


def test_an_empty_batch_is_a_batch() -> None:
    assert prune(random_net(0, 4, 2, 0, False))(torch.zeros(0, 1, 3, 5)).shape == (0, 4)


def test_what_cannot_be_pruned_is_refused() -> None:
    with pytest.raises(TypeError, match=r"LInfDistNet or an LInfDistNetMLP .* got ConvLInfDistNetMLP"):
        prune(lib.ConvLInfDistNetMLP((3, 8, 8), 10, width=2, hidden=4).eval())  # type: ignore[type-var]
    for part in ("", "layers.0.shift"):
        net = random_net(0, 4, 2, 0, False)
        net.get_submodule(part).train()
        with pytest.raises(ValueError, match=r"evaluation mode .* got training mode"):
            prune(net)
    with pytest.raises(TypeError, match=r"float32 .* got torch.float64 in layers.0.weight"):
        prune(random_net(0, 4, 2, 0, False).double())
    mixed = random_net(0, 4, 2, 0, False)
    mixed.normalize.double()
    with pytest.raises(TypeError, match=r"float32 to be pruned, got torch.float64 in normalize\.mean$"):
        prune(mixed)
    broken = random_net(0, 4, 2, 0, False)
    broken.layers[0].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"finite weights .* non-finite entry in layers.0.weight"):
        prune(broken)


def test_what_a_pruned_net_cannot_answer_is_refused() -> None:
    pruned, x = prune(random_net(0, 4, 2, 0, False)), random_images(0, 2)
    with pytest.raises(ValueError, match="net at p = inf, got p = 8"):
        pruned(x, p=8)
    for value in (-1e-6, 1 + 1e-6, math.nan):
        outside = x.clone()
        outside[0, 0, 0, 0] = value
        with pytest.raises(ValueError, match=r"pixels in \[0, 1\], got values from"):
            pruned(outside)
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\], got values from -0.1"):
        pruned.bounds(Box(x - 0.1, x))
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\], got values from 0.0 to 1.5"):
        pruned.bounds(Box(0 * x, x / x.max() + 0.5))
    for part in (pruned.layers[0].shift, pruned.top, pruned):
        part.train()
        with pytest.raises(ValueError, match="got training mode"):
            pruned(x)
        pruned.eval()


def test_a_pruned_layer_on_its_own_refuses_what_its_net_refuses() -> None:
    pruned, x = prune(random_net(0, 4, 2, 0, False)), random_images(0, 2)
    layer, v = pruned.layers[0], pruned.normalize(x)
    assert torch.equal(layer(v), pruned.activations(x)[1])
    for call in (lambda: layer(v, 8.0), lambda: pruned.activations(x, 8.0)):
        with pytest.raises(ValueError, match="net at p = inf, got p = 8"):
            call()
    layer.weight.mul_(2)
    for call in (lambda: layer(v), lambda: layer.bounds(Box(v, v))):
        with pytest.raises(ValueError, match="pruned net must keep its layers, weights"):
            call()


def replace_weight(net: Net) -> None:
    net.layers[0].weight = nn.Parameter(net.layers[0].weight + 1)


def reassign_weight_twice(net: Net) -> None:  # the second time it may well lie where it was pruned
    for _ in range(2):
        net.layers[0].weight.data = net.layers[0].weight.data + 1


def replace_layer(home: nn.Module, name: str) -> None:
    torch.manual_seed(0)
    units, features = getattr(home, name).weight.shape
    setattr(home, name, LInfDist(features, units).eval().requires_grad_(False))


CHANGES: dict[str, Callable[[Net], object]] = {
    "running mean": lambda net: net.layers[0].shift.running_mean.add_(1),
    "running mean by data": lambda net: net.layers[0].shift.running_mean.data.add_(1),
    "mean shift through half precision": lambda net: net.layers[0].shift.half().float(),
    "bias": lambda net: net.layers[1].bias.add_(1),
    "bias by data": lambda net: net.layers[1].bias.data.add_(1),
    "weight": lambda net: net.layers[0].weight.mul_(2),
    "weight in another place": replace_weight,
    "weight reassigned twice": reassign_weight_twice,
    "weight transposed": lambda net: setattr(net.layers[1].weight, "data", net.layers[1].weight.data.T),
    "std": lambda net: setattr(net.normalize, "std", 0.03),
    "mean": lambda net: net.normalize.mean.add_(0.2),
    "mean in another place": lambda net: setattr(net.normalize, "mean", net.normalize.mean + 0.2),
    "normalize replaced": lambda net: setattr(net, "normalize", Normalize((0.4,), 0.1).eval()),
    "layer replaced": lambda net: replace_layer(net.layers, "1"),
    "last layer replaced": lambda net: replace_layer(
        *((net, "top") if isinstance(net, LInfDistNet) else (net.layers, "2"))
    ),
    "layer left out": lambda net: setattr(net, "layers", net.layers[:-1].eval()),
    "assigned state": lambda net: net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}, assign=True),
}


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_constant_is_refused_by_calls_bounds_certificates_copies_and_files(
    change: str, head: bool, tmp_path: Path
) -> None:
    net, x = random_net(0, 8, 3, 0, head), random_images(0, 6)
    net.layers[1].bias = nn.Parameter(torch.randn(8), requires_grad=False)
    y = net(x).argmax(1)
    pruned = prune(net)
    assert_equal(net, pruned, x, 0.1)
    CHANGES[change](net)
    CHANGES[change](pruned)
    for call in (
        lambda: pruned(x),
        lambda: pruned.bounds(pixel_box(x, 0.1)),
        lambda: certify(pruned, x, y, 0.1),
        lambda: prune(pruned),
        lambda: lib.save(pruned, tmp_path / "net"),
        lambda: copy.deepcopy(pruned)(x),
        lambda: pickle.loads(pickle.dumps(pruned))(x),
        lambda: pruned.double()(x.double()),
    ):
        with pytest.raises(ValueError, match="must keep its layers, weights, biases, running means, mean and std, got"):
            call()
    assert_equal(net, prune(net), x, 0.1)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_type_that_rounds_the_constants_is_refused_before_anything_is_rounded(head: bool, dtype: torch.dtype) -> None:
    net, x = random_net(0, 8, 2, 0, head), random_images(0, 6)
    pruned = prune(net)
    with pytest.raises(ValueError, match=f"must stay float32 or float64, got {dtype}"):
        pruned.to(dtype)
    assert_equal(net, pruned, x, 0.1)
    assert_equal(net, pruned.double().float(), x, 0.1)


def test_a_constant_that_would_broadcast_is_a_changed_one() -> None:
    pruned, x = prune(random_net(0, 8, 3, 0, False)), random_images(0, 4)
    pruned.top.bias.data = pruned.top.bias.data[:, None]
    with pytest.raises(ValueError, match="pruned net must keep its layers, weights, biases"):
        pruned(x)


def test_a_layer_of_one_pruned_net_is_refused_in_another_net() -> None:
    net, other, x = random_net(0, 8, 3, 0, False), random_net(1, 8, 3, 0, False), random_images(0, 6)
    y = other(x).argmax(1)
    other.layers[1] = prune(net).layers[1]
    for call in (lambda: other(x), lambda: other.bounds(pixel_box(x, 0.1)), lambda: certify(other, x, y, 0.1)):
        with pytest.raises(ValueError, match="pruned net must keep its layers"):
            call()


def test_weights_that_were_changed_are_refused() -> None:
    net, x = random_net(0, 4, 2, 0, False), random_images(0, 2)
    pruned = prune(net)
    for again in (copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned))):
        assert torch.equal(again(x), net(x))
        again.load_state_dict(random_net(1, 4, 2, 0, False).state_dict())
        with pytest.raises(ValueError, match="pruned net must keep its layers, weights"):
            again(x)
    pruned.top.weight[0, 0] += 1
    with pytest.raises(ValueError, match="pruned net must keep its layers, weights"):
        pruned.bounds(Box(x, x))


def test_layers_of_other_neurons_are_refused() -> None:
    net = random_net(0, 4, 2, 0, False)
    net.layers[0] = SortLinear(*net.layers[0].weight.shape[::-1], keep_prob=0.5)
    with pytest.raises(TypeError, match=r"l_inf-dist neurons and mean shifts alone, got a SortLinear"):
        prune(net.eval())
    with pytest.raises(TypeError, match=r"layers alone to be pruned, got BatchNorm layers\.0\.shift"):
        prune(with_batch_norm(LInfDistNet((1, 3, 5), 4, width=4, depth=2)).eval())


def negated(layer: nn.Module) -> Callable[..., Tensor]:
    whole = type(layer).forward
    return lambda *arguments: -whole(layer, *arguments)


@pytest.mark.parametrize("part", ["", "normalize", "layers.0", "layers.0.shift", "top"])
def test_what_a_copy_would_lose_is_refused(part: str) -> None:
    net = random_net(0, 4, 2, 0, False)
    module = net.get_submodule(part)
    handle = module.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(ValueError, match=f"no forward hooks to be pruned, got some on {type(module).__name__} ?{part}"):
        prune(net)
    handle.remove()
    module.forward = negated(module)
    with pytest.raises(TypeError, match=f"to be pruned, got another forward on {type(module).__name__} ?{part}"):
        prune(net)


@pytest.mark.parametrize("part", ["normalize", "layers.0", "layers.1", "top"])
def test_hooks_and_replaced_methods_of_a_pruned_net_are_called(part: str) -> None:
    net, x = random_net(0, 8, 3, 0, False), random_images(0, 60)
    whole, seen = net(x), list[Tensor]()
    pruned = prune(net)
    handle = pruned.get_submodule(part).register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert torch.equal(pruned(x), whole) and len(seen) == 1
    handle.remove()
    handle = pruned.get_submodule(part).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert torch.equal(pruned(x), whole) and len(seen) == 2
    handle.remove()
    pruned.get_submodule(part).forward = negated(pruned.get_submodule(part))  # type: ignore[method-assign]
    net.get_submodule(part).forward = negated(net.get_submodule(part))  # type: ignore[method-assign]
    assert part != "top" or torch.equal(pruned(x), net(x))
    assert not torch.equal(pruned(x), whole)


def test_a_net_is_pruned_certified_and_saved_whatever_the_default_device(tmp_path: Path) -> None:
    net, x = random_net(0, 8, 3, 0, False), random_images(0, 7)
    y = net(x).argmax(1)
    wanted = certify(net, x, y, 0.01)
    with torch.device("meta"):
        pruned = prune(net)
        found, kept = certify(pruned, x, y, 0.01), pruned.layers[0].kept()
        save(pruned, tmp_path / "net")
    assert torch.equal(found.certified, wanted.certified) and torch.equal(found.radius, wanted.radius)
    assert torch.equal(kept, prune(net).layers[0].kept())


def test_a_pruned_net_that_is_hooked_executes_and_bounds_the_same() -> None:
    net, x = random_net(0, 8, 3, 0, False), random_images(0, 60)
    pruned = prune(net)
    wanted, box = pruned.executed(x), pixel_box(x, 0.1)
    pruned.layers[0].register_forward_hook(lambda module, inputs, output: None)
    assert all(map(torch.equal, pruned.executed(x), wanted))
    assert all(map(torch.equal, pruned.bounds(box), net.bounds(box)))


@pytest.mark.parametrize("part", ["normalize", "layers.0", "layers.1", "top"])
def test_replaced_bounds_of_a_part_of_a_pruned_net_are_called(part: str) -> None:
    net, box, seen = random_net(0, 8, 3, 0, False), pixel_box(random_images(0, 60), 0.1), list[Box]()
    pruned = prune(net)
    module = pruned.get_submodule(part)
    whole = module.bounds
    module.bounds = lambda given: seen.append(given) or whole(given)  # type: ignore[method-assign]
    assert all(map(torch.equal, pruned.bounds(box), net.bounds(box))) and len(seen) == 1


def test_every_logit_and_bound_of_the_mnist_test_set_is_equal(linf_data: Callable[[str], Path]) -> None:
    net = lib.load(MNIST_NET).requires_grad_(False)
    assert isinstance(net, LInfDistNet)
    test = load_data(recipes.load("mnist/linf-dist-net", "laptop"), linf_data("mnist")).test
    pruned = prune(net)
    assert len(test) == 10_000
    for indices in torch.arange(len(test)).split(500):
        assert_equal(net, pruned, batch(test, indices), 0.3)
    kept = sum(int(layer.kept().sum()) for layer in [*pruned.layers, pruned.top])
    assert kept * 4.5 < sum(weight.numel() for weight in net.distance_weights())


def test_boxes_of_unlike_ends_are_refused() -> None:
    net, x = random_net(0, 16, 2, 0, False), random_images(0, 40)
    pruned, one = prune(net), torch.ones(1, 1, 3, 5)
    upper = (one, x[:7], x.double(), x.amax((1, 2, 3), keepdim=True))
    for box in (Box(0 * one, x), *(Box(x, end) for end in upper)):
        for each in (net, pruned, pruned.layers[0]):
            with pytest.raises(ValueError, match="box must have ends of one shape, dtype and device"):
                each.bounds(box)
    wide = Box(x, torch.ones_like(x).requires_grad_())
    for a, b in zip(net.bounds(wide), pruned.bounds(wide), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("std", [-0.5, 0.0, 1e-300, math.nan])
def test_a_normalisation_that_is_none_is_refused(std: float) -> None:
    net = random_net(0, 16, 2, 0, False)
    net.normalize.std = std
    with pytest.raises(ValueError, match=r"std must be between 2\^-100 and 2\^100"):
        prune(net)
    with pytest.raises(ValueError, match=r"std must be between 2\^-100 and 2\^100"):
        net.bounds(pixel_box(random_images(0, 3), 0.1))
    net.normalize.std, net.normalize.mean = 1.0, torch.full((1, 1, 1), math.nan)
    with pytest.raises(ValueError, match="mean must be finite"):
        prune(net)


def test_a_pruned_net_does_not_move_where_its_values_are_lost() -> None:
    pruned = prune(random_net(0, 16, 2, 0, False))
    for part in (*pruned.parts(), pruned):
        with pytest.raises(ValueError, match="pruned net must keep its layers, weights"):
            part.to_empty(device="cpu")


def test_the_default_type_of_torch_changes_nothing() -> None:
    net, x = random_net(0, 16, 2, 0, False), random_images(0, 5)
    wanted = net(x)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(prune(net)(x), wanted)
    finally:
        torch.set_default_dtype(torch.float32)


def test_running_means_that_share_one_number_are_read_as_any_others() -> None:
    net, x = random_net(0, 16, 2, 0, False), random_images(0, 40)
    net.layers[0].shift.running_mean = torch.zeros(1).expand(16)
    assert_equal(net, prune(net), x, 0.1)


def test_forward_mode_is_refused_rather_than_lost() -> None:
    net = prune(random_net(0, 12, 2, 0, False))
    x = random_images(0, 3)
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=r"has a tangent .* distances have gradients alone"),
    ):
        net(forward_ad.make_dual(x, torch.ones_like(x)))
