"""A net that is to be certified, pruned or saved: what it may not be made of."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from lib.nets.box import Box
from lib.nets.checks import check_parts
from lib.nets.head import Linear, MLPHead, Tanh
from lib.nets.layers import LInfDist
from lib.nets.models import LInfDistNet, LInfDistNetMLP, ReLUNet
from lib.nets.normalisation import Normalize
from lib.nets.prune import prune
from lib.nets.sortnet import SortNet, coefficients
from lib.nets.store import save
from lib.robustness.certify import certify
from lib.theory.addernet import with_batch_norm

SHAPE = (1, 4, 4)


def test_a_net_that_does_something_else_than_its_parts() -> None:
    class Negated(LInfDistNet):
        def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
            return -super().forward(x, p)

    with pytest.raises(TypeError, match="library's layers alone to be certified, got Negated"):
        check_parts(Negated(SHAPE, 3, width=4, depth=2), "certified")
    scaled = with_batch_norm(LInfDistNet(SHAPE, 3, width=4, depth=2))
    with pytest.raises(TypeError, match=r"got BatchNorm layers\.0\.shift"):
        check_parts(scaled, "certified")
    replaced = LInfDistNet(SHAPE, 3, width=4, depth=2)
    replaced.top.forward = lambda x, p=math.inf: -x[:, :3]  # type: ignore[method-assign]
    with pytest.raises(TypeError, match="methods of its classes to be certified, got another forward on LInfDist top"):
        check_parts(replaced, "certified")
    for name, value in (("activations", lambda x: [x, x]), ("margin_lb", lambda box, y: y + 1), ("std", 1e9)):
        net = LInfDistNet(SHAPE, 3, width=4, depth=2)
        vars(net)[name] = value
        with pytest.raises(TypeError, match=f"got another {name} on LInfDistNet"):
            check_parts(net, "certified")
    precise = LInfDistNet(SHAPE, 3, width=4, depth=2)
    vars(precise.top)["roundings"] = 0
    with pytest.raises(TypeError, match="got another roundings on LInfDist top"):
        check_parts(precise, "certified")


@pytest.mark.parametrize(("part", "name"), [("top", "weight"), ("layers.0.shift", "running_mean"), ("", "top")])
def test_a_part_that_hides_the_registered_one(part: str, name: str, tmp_path: Path) -> None:
    net = LInfDistNet(SHAPE, 3, width=4, depth=2).eval()
    module = net.get_submodule(part)
    vars(module)[name] = copy.deepcopy(getattr(module, name))  # is what runs, and no part of a copy or of what is saved
    with pytest.raises(TypeError, match=f"must hold one of each part to be certified, got another {name} on "):
        certify(net, torch.rand(2, *SHAPE), torch.tensor([0, 1]), 0.1)
    with pytest.raises(TypeError, match=f"must hold one of each part to be saved, got another {name} on "):
        save(net, tmp_path / "net")


class Coarse(Tensor):
    """What computes in another way than its values, as quantised weights do."""


def test_constants_that_compute_in_another_way() -> None:
    net = LInfDistNet(SHAPE, 3, width=4, depth=2)
    net.top.weight = nn.Parameter(net.top.weight.detach().as_subclass(Coarse))
    with pytest.raises(TypeError, match=r"plain tensors to be certified, got a Coarse as weight on LInfDist top"):
        check_parts(net, "certified")
    net = LInfDistNet(SHAPE, 3, width=4, depth=2)
    net.normalize.mean = net.normalize.mean.as_subclass(Coarse)
    with pytest.raises(TypeError, match=r"plain tensors to be certified, got a Coarse as mean on Normalize normalize"):
        check_parts(net, "certified")


def test_hooks_on_a_net_or_on_all() -> None:
    net = LInfDistNet(SHAPE, 3, width=4, depth=2)
    for register in (net.register_forward_hook, net.register_forward_pre_hook):
        hook = register(lambda *_: None)
        with pytest.raises(ValueError, match=r"no forward hooks to be certified, got some on LInfDistNet$"):
            check_parts(net, "certified")
        hook.remove()
    for register_for_all in (register_module_forward_hook, register_module_forward_pre_hook):
        everywhere = register_for_all(lambda *_: None)
        try:
            with pytest.raises(ValueError, match="torch must have no global forward hooks where a net is to be cert"):
                check_parts(net, "certified")
        finally:
            everywhere.remove()
    check_parts(net, "certified")


def test_a_compiled_net_is_refused_with_the_way_out(tmp_path: Path) -> None:
    net, x = LInfDistNet(SHAPE, 3, width=4, depth=2).eval(), torch.rand(2, *SHAPE)
    y, made = net(x).argmax(1), torch.compile(net, backend="eager")
    calls = {
        "certified": lambda net: certify(net, x, y, 0.1),
        "pruned": prune,
        "saved": lambda net: save(net, tmp_path / "net"),
    }
    net.compile(backend="eager")
    for purpose, call in calls.items():
        with pytest.raises(TypeError, match=r"got OptimizedModule: pass the net that torch\.compile was given"):
            call(made)
        with pytest.raises(
            TypeError, match=rf"not be compiled to be {purpose}, got compile\(\) called on LInfDistNet: pass"
        ):
            call(net)
        call(copy.deepcopy(net))


def test_a_part_in_the_place_of_one_of_another_kind() -> None:
    class Gain:
        running_mean = torch.zeros(3)

        def __call__(self, y: Tensor, p: float = math.inf) -> Tensor:
            return 100 * y

        def bounds(self, box: Box) -> Box:
            return box

    plain, shifted = (LInfDistNet(SHAPE, 3, width=4, depth=2) for _ in range(2))
    plain.top.shift = Gain()  # type: ignore[assignment]
    shifted.layers[0].shift = Normalize((0.0,), 0.01)  # type: ignore[assignment]
    composite = LInfDistNetMLP(SHAPE, 3, width=4, depth=2, hidden=4)
    del composite.head.tanh
    composite.head.tanh = Gain()  # type: ignore[assignment]
    layered = LInfDistNet(SHAPE, 3, width=4, depth=2)
    layered.layers[0] = Linear(9, 4)
    started = LInfDistNet(SHAPE, 3, width=4, depth=2)
    started.normalize = Linear(1, 1)  # type: ignore[assignment]
    headed, *inside = (LInfDistNetMLP(SHAPE, 3, width=4, depth=2, hidden=4) for _ in range(3))
    headed.head = Linear(4, 3)  # type: ignore[assignment]
    inside[0].head.fc1 = LInfDist(4, 4, bias=True)  # type: ignore[assignment]
    inside[1].head.fc2 = LInfDist(4, 3, bias=True)  # type: ignore[assignment]
    swapped, bent, convolved, unlisted = (ReLUNet((1, 4, 4), 3, width=2, depth=4, hidden=4) for _ in range(4))
    unlisted.head.convolutions = None  # type: ignore[assignment]
    swapped.head = MLPHead(16, 4, 3)
    bent.head.relu = Tanh()  # type: ignore[assignment]
    convolved.head.convolutions[0] = Linear(16, 8)
    for net, place, kind in (
        (plain, "MeanShift as its shift", "Gain"),
        (shifted, "MeanShift as its shift", "Normalize"),
        (composite, r"Tanh as its head\.tanh", "Gain"),
        (layered, "LInfDist or LInfDistConv2d or SortLinear or PrunedDist as its layer", "Linear"),
        (started, "Normalize or ValidPixels as its normalize", "Linear"),
        (headed, "MLPHead as its head", "Linear"),
        (inside[0], r"Linear as its head\.fc1", "LInfDist"),
        (inside[1], r"Linear as its head\.fc2", "LInfDist"),
        (swapped, "ReLUHead as its head", "MLPHead"),
        (bent, r"ReLU as its head\.relu", "Tanh"),
        (convolved, "Conv2d as its convolution", "Linear"),
        (unlisted, r"ModuleList as its head\.convolutions", "NoneType"),
    ):
        with pytest.raises(TypeError, match=f"net must have a {place} to be certified, got a {kind}"):
            check_parts(net, "certified")


@pytest.mark.parametrize(
    ("place", "constant", "sentence"),
    [
        ("normalize.mean", torch.rand(1, 4, 4), r"a mean of shape \[1, 1, 1\] .*, got \[1, 4, 4\]"),
        ("normalize.mean", torch.rand(2, 1, 1, 1), r"a mean of shape \[1, 1, 1\] .*, got \[2, 1, 1, 1\]"),
        ("layers.0.shift.running_mean", torch.rand(4, 1), r"a running_mean of shape \[4\] .*, got \[4, 1\]"),
        ("layers.0.bias", torch.rand(1), r"a bias of shape \[4\] .*, got \[1\]"),
        ("head.fc1.bias", torch.rand(2, 4), r"a bias of shape \[4\] .*, got \[2, 4\]"),
        ("head.fc2.bias", torch.rand(2, 3), r"a bias of shape \[3\] .*, got \[2, 3\]"),
    ],
)
def test_a_constant_that_broadcasts(place: str, constant: Tensor, sentence: str) -> None:
    net = LInfDistNetMLP(SHAPE, 3, width=4, depth=2, hidden=4).eval()
    part, _, name = place.rpartition(".")
    held = net.get_submodule(part)
    setattr(held, name, nn.Parameter(constant) if name == "bias" else constant)
    net(torch.rand(2, *SHAPE))
    for purpose in ("certified", "pruned"):
        with pytest.raises(ValueError, match=f"net must have {sentence}"):
            check_parts(net, purpose)


def test_a_constant_of_a_relu_net_that_broadcasts() -> None:
    net = ReLUNet((1, 4, 4), 3, width=2, depth=4, hidden=4).eval()
    net.head.convolutions[1].bias = nn.Parameter(torch.rand(4, 1))
    net(torch.rand(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"net must have a bias of shape \[4\] there .*, got \[4, 1\]"):
        check_parts(net, "certified")


@pytest.mark.parametrize("kind", [LInfDistNetMLP, ReLUNet])
def test_a_constant_that_broadcasts_in_a_layer_that_is_hidden_from_its_head(kind: type[LInfDistNetMLP]) -> None:
    # once only registered layers were looked at, and images were certified with labels that they did not have
    net = kind((1, 4, 4), 3, width=4, depth=4, hidden=4).eval()
    last = net.head.fc2
    del net.head.fc2
    net.head.__dict__["fc2"] = net.extra = last
    last.bias = nn.Parameter(torch.tensor([[0.0, 0.0, 1000.0], [1000.0, 0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"net must have a bias of shape \[3\] there to be certified, got \[2, 3\]"):
        certify(net, torch.rand(2, 1, 4, 4), torch.tensor([2, 0]), 0.05)


@pytest.mark.parametrize("c", [(2.0,), (-1.0,), (2.0**-127,), (math.nan,)])
def test_other_coefficients_of_a_sortnet(c: tuple[float, ...]) -> None:
    net = SortNet((1, 1, 1), 2, width=1, depth=1, keep_prob=1.0, identity=0.0)
    net.top.coefficients = c
    with pytest.raises(ValueError, match=r"the coefficients of its keep_prob to be certified, got .* on SortL"):
        check_parts(net, "certified")


@pytest.mark.parametrize("q", [1.5, 0.0, -1.0, math.nan])
def test_a_sortnet_that_is_not_1_lipschitz(q: float) -> None:
    net = SortNet((1, 1, 2), 2, width=2, depth=1, keep_prob=0.5, top_k=2)
    net.top.keep_prob, net.top.coefficients = q, coefficients(q, 2)
    with pytest.raises(ValueError, match=r"the coefficients of its keep_prob to be certified, got .* on SortL"):
        check_parts(net, "certified")


def test_a_part_that_is_no_module_of_the_net_is_refused() -> None:
    net = LInfDistNet(SHAPE, 3, width=8, depth=2)
    layers = list(net.layers)
    del net.layers
    net.layers = layers  # type: ignore[assignment]  # out of reach of net.eval()
    with pytest.raises(TypeError, match="must hold its parts as modules to be certified, got a LInfDist"):
        check_parts(net, "certified")
