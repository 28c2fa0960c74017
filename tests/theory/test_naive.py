"""The naive certificate: right in real arithmetic, wrong as executed, and what `certify` says instead."""

import pytest
import torch

from lib import certified_radius, certify
from lib.theory.naive import half_margin, rounding_trap


def test_half_the_margin_is_what_fact_3_6_says() -> None:
    net, x, _ = rounding_trap()
    net.top.weight.data = torch.tensor([[-1.0], [2.0]])
    net.normalize.std = 0.5
    # the pixel is 0.87 behind the normalisation, its distances 0.87 + 1 and 2 - 0.87
    assert half_margin(net, x, torch.tensor([1])).item() == pytest.approx(0.5 * (2 * 0.87 - 1) / 2, abs=1e-6)
    assert half_margin(net, x, torch.tensor([0])).item() < 0


def test_the_trap_flips_within_the_radius_that_half_the_margin_claims() -> None:
    net, x, other = rounding_trap()
    y = net(x).argmax(1)
    distance = (other.double() - x.double()).abs().item()
    assert distance < half_margin(net, x, y).item() == 0.1875
    assert net(other).argmax(1) != y


@pytest.mark.parametrize("method", ["margin", "interval"])
def test_no_certificate_falls_into_the_trap(method: str) -> None:
    net, x, other = rounding_trap()
    y = net(x).argmax(1)
    distance = (other.double() - x.double()).abs().item()
    assert not certify(net, x, y, distance, method).certified.item()  # type: ignore[arg-type]
    assert certified_radius(net, x, y, method).item() < distance  # type: ignore[arg-type]


def test_in_real_arithmetic_the_same_net_is_certified_as_far_as_it_holds() -> None:
    net, x, _ = rounding_trap()
    radius = certified_radius(net.double(), x.double(), torch.tensor([0]), "interval").item()
    assert radius == pytest.approx(0.1275, abs=1e-6)
