"""What certificates pay for rounding, term by term as their docstring has it: attacks in tests rarely meet a bit."""

import math

import pytest
import torch
from torch import Tensor

from lib.nets.box import Box
from lib.nets.models import LInfDistNet, LInfDistNetMLP
from lib.robustness import certify as certificates
from lib.robustness.certify import certify

SHAPE = (1, 4, 4)


def two_logits(first: float, second: float, std: float) -> LInfDistNet:
    """A net on one pixel x: logits -|x / std - first| and -|x / std - second|."""
    net = LInfDistNet((1, 1, 1), 2, width=1, depth=1, mean=0.0, std=std).eval().requires_grad_(False)
    net.top.weight.copy_(torch.tensor([[first], [second]]))
    return net


def margin_radius(net: LInfDistNet, pixel: float) -> float:
    """The margin radius of an image whose label is the first."""
    return certify(net, torch.full((1, 1, 1, 1), pixel), torch.tensor([0]), 0.1, "margin").radius.item()


def price(net: LInfDistNet | LInfDistNetMLP) -> float:
    """The share of the sizes of two values that their difference pays."""
    return 2.0**-22 * net.roundings() * (1 + 2.0**-10)


def test_a_margin_radius_is_the_documented_one() -> None:
    net = two_logits(-1000.0, -1001.0, std=0.5)  # at 0.25: -1000.5 and -1001.5
    expected = 0.5 * (1 - price(net) * 1001.5) / (2 + price(net))
    assert margin_radius(net, 0.25) == pytest.approx(expected, rel=1e-9)


def test_the_margin_of_a_small_and_a_large_logit_is_not_rounded() -> None:
    net = two_logits(0.001, 1000.0, std=2.0**-12)
    margin = 1000.0 - net.top.weight[0].item()
    expected = 2.0**-12 * (margin - price(net) * 1000.0) / (2 + price(net))
    assert margin_radius(net, 0.0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("share", "radius"), [(0.9, 0.0), (0.6, 0.3)])  # within it 1.35 2^100, and 0.9 2^100
def test_a_value_that_leaves_the_range_within_the_radius_proves_nothing(share: float, radius: float) -> None:
    assert margin_radius(two_logits(0.0, share * 2.0**100, std=2.0**-100), 0.0) == pytest.approx(radius, rel=1e-5)


def test_a_head_gets_a_box_of_the_documented_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x = LInfDistNetMLP(SHAPE, 3, width=12, depth=2, hidden=8, std=0.5).eval(), torch.rand(5, *SHAPE)
    net.layers[0].weight.data.add_(1000.0)
    boxes, margin_lb = list[Box](), LInfDistNetMLP.margin_lb

    def watched(net: LInfDistNetMLP, box: Box, y: Tensor) -> Tensor:
        boxes.append(box)
        return margin_lb(net, box, y)

    monkeypatch.setattr(LInfDistNetMLP, "margin_lb", watched)
    certify(net, x, net(x).argmax(1), 0.1, "margin")
    lower, upper = boxes[-1]  # at eps itself, 0.2 behind the normalisation
    reach = 0.2 + price(net) / 2 * (net.executed(x).size.double()[:, None] + 0.2)
    torch.testing.assert_close((upper - lower) / 2, reach.expand_as(upper), rtol=0, atol=1e-9)


def test_a_thousandth_covers_all_orders_of_the_roundings_that_are_allowed() -> None:
    n, unit = certificates.MOST_ROUNDINGS, 2.0**-24
    assert math.expm1(n * math.log1p(unit)) <= n * unit * certificates.SECOND_ORDER


@pytest.mark.parametrize("method", ["margin", "interval"])
def test_a_margin_of_zero_proves_nothing(method: certificates.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = LInfDistNetMLP(SHAPE, 3, width=4, depth=2, hidden=3).eval(), torch.rand(5, *SHAPE)
    monkeypatch.setattr(LInfDistNetMLP, "margin_lb", lambda net, box, y: torch.zeros(len(y), dtype=torch.float64))
    result = certify(net, x, net(x).argmax(1), 0.1, method)
    assert result.correct.all() and not result.certified.any() and not result.radius.any()


def test_the_radius_itself_is_a_tie() -> None:
    torch.manual_seed(0)
    net, x = LInfDistNet(SHAPE, 3, width=12, depth=3).eval(), torch.rand(20, *SHAPE)
    y = net(x).argmax(1)
    radii = certify(net, x, y, 0.1, "margin").radius
    inside = (radii > 0) & (radii < 1)
    assert inside.sum() > 5
    for image, label, radius in zip(x[inside], y[inside], radii[inside].tolist(), strict=True):
        assert not certify(net, image[None], label[None], radius, "margin").certified
