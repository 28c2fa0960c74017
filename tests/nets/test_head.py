"""The head: scaling, Eq. 21, and bounds that hold for float32 as executed."""

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
