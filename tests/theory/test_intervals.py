"""Boxes followed through nets: they hold what is inside, they are ordered, and they are those of the certificates."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib import LInfDistNet, LInfDistNetMLP, ReLUNet, certify
from lib.nets.base import margin
from lib.nets.models import Net
from lib.robustness.inputs import pixel_box
from lib.theory.intervals import follow, margin_bounds, relative_widths

SHAPE = (1, 3, 3)


def random_net(kind: type[Net], seed: int, depth: int = 2) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = kind(SHAPE, 3, width=12, depth=depth, mean=0.4, std=0.3)
        for _ in range(30):
            net(torch.rand(32, *SHAPE))
    return net.eval()


def sample(seed: int) -> Tensor:
    # black and white pixels among others, so that clipping counts
    return (2 * torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(seed)) - 0.5).clamp(0, 1)


KINDS = pytest.mark.parametrize("kind", [LInfDistNet, LInfDistNetMLP], ids=lambda kind: kind.__name__)


@KINDS
class TestFollow:
    def test_names_every_step_and_ends_with_the_bounds_of_the_net(self, kind: type[Net]) -> None:
        net, box = random_net(kind, 0), pixel_box(sample(0), 0.1)
        steps = follow(net, box)
        hidden = ["layer 1"] if kind is LInfDistNet else ["layer 1", "layer 2", "head: affine", "head: tanh"]
        assert [name for name, _ in steps] == ["pixels", *hidden, "logits"]
        assert all(torch.equal(a, b) for a, b in zip(steps[-1][1], net.bounds(box), strict=True))

    def test_every_executed_value_lies_in_its_box(self, kind: type[Net]) -> None:
        net, box = random_net(kind, 1), pixel_box(sample(1), 0.2)
        steps = follow(net, box)
        seen: list[Tensor] = []
        modules = [net.normalize, *net.layers]
        modules += [net.head.fc1, net.head.tanh, net.head.fc2] if isinstance(net, LInfDistNetMLP) else []
        handles = [module.register_forward_hook(lambda m, i, output: seen.append(output)) for module in modules]
        for draw in range(50):
            seen.clear()
            share = torch.rand(box.lower.shape, generator=torch.Generator().manual_seed(draw))
            logits = net(torch.lerp(box.lower, box.upper, share.round() if draw % 2 else share))
            values = seen if kind is LInfDistNetMLP else [*seen, logits]
            for value, (name, (lower, upper)) in zip(values, steps, strict=True):
                assert ((lower <= value) & (value <= upper)).all(), name
        for handle in handles:
            handle.remove()

    def test_a_layer_never_widens_the_box_at_p_inf(self, kind: type[Net]) -> None:
        widths = [box.halfwidth.amax().item() for name, box in follow(random_net(kind, 2), pixel_box(sample(2), 0.1))]
        distances = widths[:3]
        assert all(width <= 0.1 / 0.3 * (1 + 1e-5) for width in distances)
        assert max(distances) > 0.9 * 0.1 / 0.3


def test_relative_widths_are_half_widths_beside_the_spread_of_centres() -> None:
    net = LInfDistNet((1, 1, 2), 2, width=1, depth=1, mean=0.5, std=0.5, identity=0.0).eval()
    net.top.weight.data = torch.tensor([[-9.0, 0.0], [-1.0, 0.0]])
    x = torch.tensor([[[[0.2, 0.5]]], [[[0.8, 0.5]]]])
    # the second pixel does not vary; both logits follow the first, which varies by 1.2 / sqrt(2) in network units
    widths = relative_widths(net, pixel_box(x, 0.1))
    assert [name for name, _ in widths] == ["pixels", "logits"]
    assert [width for _, width in widths] == pytest.approx([0.2 * 2**0.5 / 1.2] * 2)


def test_the_steps_of_a_relu_net_are_named_and_end_with_its_bounds() -> None:
    torch.manual_seed(0)
    net, x = ReLUNet((1, 4, 4), 3, width=3, depth=4, hidden=6, mean=0.4, std=0.3).eval(), torch.rand(5, 1, 4, 4)
    with torch.no_grad():  # torch sums the products of patches in another order where they need gradients
        steps, whole = follow(net, pixel_box(x, 0.1)), net.bounds(pixel_box(x, 0.1))
    convolved = ["head: convolution", "head: relu"] * 2
    assert [name for name, _ in steps] == ["pixels", *convolved, "head: affine", "head: relu", "logits"]
    assert all(torch.equal(a, b) for a, b in zip(steps[-1][1], whole, strict=True))


@KINDS
class TestMarginBounds:
    @given(seed=st.integers(0, 2**31), eps=st.floats(0, 0.5), depth=st.integers(1, 3))
    @settings(deadline=None, max_examples=20)
    def test_are_ordered_and_below_every_margin_in_the_ball(
        self, kind: type[Net], seed: int, eps: float, depth: int
    ) -> None:
        net, x = random_net(kind, seed, depth), sample(seed)
        with torch.no_grad():
            y = net(x).argmax(1)
            bounds = margin_bounds(net, x, y, eps)
            assert (bounds.margin <= bounds.unclipped + 1e-4).all()
            assert (bounds.unclipped <= bounds.clipped).all()
            lower, upper = pixel_box(x, eps)
            for draw in range(20):
                share = torch.rand(x.shape, generator=torch.Generator().manual_seed(draw)).round()
                logits = net(torch.lerp(lower, upper, share))
                assert (bounds.clipped <= margin(logits, y) + 1e-6).all()

    def test_clipping_is_what_helps_while_all_distances_exceed_the_radius(self, kind: type[Net]) -> None:
        net, x = random_net(kind, 5), sample(5)
        bounds = margin_bounds(net, x, net(x).argmax(1), 0.2)
        assert (bounds.clipped > bounds.unclipped + 1e-3).any()
        torch.testing.assert_close(bounds.unclipped, bounds.margin, rtol=0, atol=1e-3)

    def test_the_whole_ball_gains_where_a_distance_cannot_fall_below_zero(self, kind: type[Net]) -> None:
        net, x = random_net(kind, 5), sample(5)
        for weight in net.distance_weights():
            weight.data.mul_(0.02)
        bounds = margin_bounds(net, x, net(x).argmax(1), 0.9)
        assert (bounds.unclipped > bounds.margin + 1e-3).any()

    def test_the_certificates_are_decided_by_them(self, kind: type[Net]) -> None:
        net, x = random_net(kind, 6), sample(6)
        y = net(x).argmax(1)
        for eps in (0.01, 0.05, 0.1, 0.2):
            bounds = margin_bounds(net, x, y, eps)
            assert torch.equal(bounds.clipped > 0, certify(net, x, y, eps, "interval").certified)
            clear = bounds.margin.abs() > 1e-3
            assert torch.equal((bounds.margin > 0)[clear], certify(net, x, y, eps, "margin").certified[clear])

    def test_at_radius_0_all_three_are_the_clean_margin(self, kind: type[Net]) -> None:
        net, x = random_net(kind, 7), sample(7)
        logits = net(x)
        y = logits.argmax(1)
        clean = margin(logits, y)
        for bound in margin_bounds(net, x, y, 0.0):
            torch.testing.assert_close(bound, clean, rtol=0, atol=1e-3, check_dtype=False)
