"""The head: scaling, Eq. 21, and bounds that hold for float32 as executed."""

import math

import pytest
import torch

from lib.nets import head
from lib.nets.box import Box
from lib.nets.head import Linear, MLPHead, Tanh, merged_margin


def test_the_margin_of_the_reference_needs_the_merged_layer() -> None:
    last = Linear(2, 3)
    last.weight.data = torch.tensor([[1.0, -2.0], [0.5, 1.0], [0.0, 3.0]]) * 2**0.5
    last.bias.data = torch.tensor([0.1, 0.0, -0.2])
    box = Box(torch.tensor([[-0.1, 0.2]]), torch.tensor([[0.3, 0.4]]))
    plain = last.ibp(box)
    torch.testing.assert_close(plain.upper[0, :2] - plain.lower[0, 2], torch.tensor([-0.4, 0.15]))
    merged = merged_margin(last, box, torch.tensor([2]))
    torch.testing.assert_close(merged, torch.tensor([[-0.4, -0.05, 0.0]]))


def test_weights_are_scaled_at_run_time_and_biases_are_not() -> None:
    layer = Linear(16, 3)
    layer.bias.data.normal_()
    v = torch.randn(5, 16)
    torch.testing.assert_close(layer(v), v @ layer.weight.T / 4 + layer.bias)
    assert repr(layer) == "Linear(in_features=16, out_features=3)"


def test_no_execution_leaves_the_bounds_of_linear_and_tanh() -> None:
    torch.manual_seed(0)
    layer, lower = Linear(300, 40), torch.randn(6, 300)
    box = Box(lower, lower + 0.1 * torch.rand_like(lower))
    for module in (layer, Tanh()):
        least, greatest = module.bounds(box)
        for _ in range(30):
            v = torch.lerp(*box, torch.rand_like(lower)).clamp(*box)
            for z in (module(v), module(v.flip(0)).flip(0), torch.cat([module(row[None]) for row in v])):
                assert (least <= z.double()).all()
                assert (z.double() <= greatest).all()


def test_bounds_of_a_point_still_cover_its_rounding() -> None:
    torch.manual_seed(0)
    layer, v = Linear(512, 10), torch.randn(50, 512) * 100
    point = layer.bounds(Box(v, v))
    exact = v.double() @ layer.scaled_weight.double().T + layer.bias.double()
    assert ((layer(v).double() != exact) & (point.lower < exact) & (exact < point.upper)).any()
    assert (point.upper - point.lower > 0).all()
    assert (point.upper - point.lower < 0.2).all()


def test_executed_margins_stay_below_their_bound_and_the_bound_is_tight() -> None:
    torch.manual_seed(0)
    head, v, y = MLPHead(20, 64, 5), torch.randn(8, 20), torch.randint(5, (8,))
    box = Box(v - 0.05, v + 0.05)
    bound = head.margin_ub(box, y)
    assert (bound.gather(1, y[:, None]) == 0).all()
    for _ in range(100):
        logits = head(torch.lerp(*box, torch.rand_like(v))).double()
        assert (logits - logits.gather(1, y[:, None]) <= bound + 1e-12).all()
    real = head.ibp_margin(Box(box.lower.double(), box.upper.double()), y)
    assert (bound >= real).all()
    torch.testing.assert_close(bound, real, atol=1e-3, rtol=0)


def test_merged_margins_are_never_looser_than_the_plain_difference() -> None:
    torch.manual_seed(0)
    last, v, y = Linear(30, 7), torch.randn(9, 30), torch.randint(7, (9,))
    box = Box(v - 0.3, v + 0.3)
    plain = last.ibp(box)
    difference = (plain.upper - plain.lower.gather(1, y[:, None])).scatter(1, y[:, None], 0.0)
    assert (merged_margin(last, box, y) <= difference + 1e-5).all()


@pytest.mark.parametrize("labels", [[2, 0, 2, 6, 0, 1], [3] * 6, []])
def test_margins_of_many_classes_are_those_of_few(labels: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    last, y, lower = Linear(5, 7).double(), torch.tensor(labels, dtype=torch.long), torch.randn(len(labels), 5).double()
    box = Box(lower.requires_grad_(), lower + 0.5)
    inputs = (lower, last.weight, last.bias)
    few = merged_margin(last, box, y)
    monkeypatch.setattr(head, "_CPU_ENTRIES", 0)
    many = merged_margin(last, box, y)
    torch.testing.assert_close(many, few, rtol=0, atol=1e-14)
    pulls = torch.randn_like(few)
    for a, b in zip(*(torch.autograd.grad(m, inputs, pulls) for m in (many, few)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_the_training_margin_has_gradients_for_every_parameter_and_the_box() -> None:
    head, v = MLPHead(6, 8, 3), torch.randn(4, 6, requires_grad=True)
    head.ibp_margin(Box(v - 0.1, v + 0.1), torch.tensor([0, 1, 2, 0])).sum().backward()
    assert all(parameter.grad is not None for parameter in (head.fc1.weight, head.fc1.bias, head.fc2.weight, v))


def test_gradients_of_the_training_margin_repeat_bit_for_bit() -> None:
    # once several threads summed those of the last layer in any order, and no training of a composite net came back
    torch.manual_seed(0)
    last, v, y = Linear(32, 10), torch.rand(256, 32), torch.randint(10, (256,))
    gradients = set()
    for _ in range(30):
        (gradient,) = torch.autograd.grad(merged_margin(last, Box(v, v + 0.3), y).sum(), last.weight)
        gradients.add(gradient.numpy().tobytes())
    assert len(gradients) == 1


def test_rounding_is_that_of_the_docstring() -> None:
    torch.manual_seed(0)
    layer, v = Linear(62, 5), 100 * torch.randn(4, 62)
    layer.bias.data.normal_(0, 1000)
    share = 64 * 2.0**-24
    for lower in (v, v - 1):
        sizes = torch.maximum(v.abs(), lower.abs()).double()
        size = sizes @ layer.scaled_weight.double().abs().T + layer.bias.double().abs()
        torch.testing.assert_close(
            layer.rounding(Box(lower, v)), 1.0001 * share / (1 - share) * size, rtol=1e-9, atol=0
        )
    layer.bias.data.zero_()
    nothing, lost = torch.zeros_like(v), (64 + layer.scaled_weight.double().abs().sum(1)) * 2.0**-124
    torch.testing.assert_close(layer.rounding(Box(nothing, nothing)), lost.expand(4, 5), rtol=1e-9, atol=0)
    layer.weight.data.zero_()
    lost = (64 + v.double().abs().sum(1, keepdim=True)) * 2.0**-124
    torch.testing.assert_close(layer.rounding(Box(v, v)), lost.expand(4, 5), rtol=1e-9, atol=0)


def test_an_executed_tanh_may_be_off_by_eight_roundings() -> None:
    v = torch.linspace(-3, 3, 7)[None]
    (lower, upper), exact = Tanh().bounds(Box(v, v)), v.double().tanh()
    assert ((exact - lower >= 7.9 * 2.0**-24) & (upper - exact >= 7.9 * 2.0**-24)).all()


def test_bounds_of_a_float32_box_are_those_of_the_same_box_in_float64() -> None:
    torch.manual_seed(0)
    layer, v = Linear(300, 40), torch.randn(6, 300)
    box = Box(v, v + 0.1)
    for end, same in zip(layer.bounds(box), layer.bounds(box.map(torch.Tensor.double)), strict=True):
        assert torch.equal(end, same)


def test_what_has_no_bound_has_none_behind_it() -> None:
    layer, nothing, unbounded = Linear(1, 1), torch.zeros(1, 1), torch.full((1, 1), math.inf)
    layer.weight.data.fill_(1.0)
    for module, box in (
        (layer, Box(nothing, unbounded)),
        (layer, Box(-unbounded, unbounded)),
        (Tanh(), Box(-unbounded, unbounded)),
    ):
        assert [end.item() for end in module.bounds(box)] == [-math.inf, math.inf]


def test_a_margin_is_no_better_than_what_is_executed() -> None:
    # logits of 2^24 + 0.4 and 2^24 + 0.6 are executed as 2^24, both
    top = MLPHead(1, 1, 2).requires_grad_(False)
    top.fc1.weight.fill_(0.0)
    top.fc1.bias.fill_(100.0)
    top.fc2.weight.copy_(torch.tensor([[0.4], [0.6]]))
    top.fc2.bias.fill_(2.0**24)
    v, y = torch.zeros(1, 1), torch.tensor([1])
    assert top(v).tolist() == [[2.0**24, 2.0**24]] and top.margin_lb(Box(v, v), y) <= 0


def test_a_margin_pays_for_the_rounding_of_both_logits() -> None:
    torch.manual_seed(0)
    top, v, y = MLPHead(20, 64, 5), torch.randn(8, 20), torch.arange(8) % 5
    top.fc2.bias.data = torch.tensor([1e6, 2e6, 3e6, 4e6, 5e6])  # to each its own rounding
    box = Box(v.double(), v.double())
    hidden, label = top.tanh.bounds(top.fc1.bounds(box)), y[:, None]
    slack = top.fc2.rounding(hidden)
    wanted = merged_margin(top.fc2, hidden, y) + slack + slack.gather(1, label)
    torch.testing.assert_close(top.margin_ub(box, y), wanted.scatter(1, label, 0.0), rtol=1e-12, atol=0)
    everything = Box(torch.full_like(box.lower, -math.inf), torch.full_like(box.lower, math.inf))
    assert (top.margin_lb(everything, y) == -math.inf).all()
