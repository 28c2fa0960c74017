"""Theorem 4.2 and its lemmas: margins against robust errors on real nets, and the quantities of the bound."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lib
from lib import LInfDist, LInfDistNet, recipes
from lib.robustness.attacks import adversarial_images
from lib.theory.complexity import random_signs
from lib.theory.generalisation import (
    counting_bound,
    linf_dist_vc_dimension,
    margin_bound,
    margin_error,
    massart,
    network_term,
    relu_vc_dimension,
    samples_needed,
)
from lib.theory.relu import relu_linf_dist_net
from lib.theory.signed_max import Term, distance_layer, signed_max
from lib.training.data import batch, load_data

DOUBLE = torch.float64
ROOT = Path(__file__).resolve().parent.parent.parent
MNIST = (5120, 5)  # width and depth of the paper's nets
CIFAR10 = (5120, 6)


def robust_error(f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, r: float, per_side: int = 5) -> float:
    """gamma_r on a grid of the ball: the share of samples that some grid point turns; never more than the truth."""
    axes = [torch.linspace(-r, r, per_side, dtype=x.dtype)] * x.shape[1]
    ball = torch.cartesian_prod(*axes).view(-1, x.shape[1])
    values = f((x[:, None] + ball).flatten(0, 1)).view(len(x), len(ball))
    return float(((y[:, None] * values) <= 0).any(1).double().mean())


def random_classifier(d: int, seed: int) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(seed)
    layers = [LInfDist(i, o, bias=True, identity=0).double().eval() for i, o in ((d, 6), (6, 6), (6, 1))]

    def f(x: Tensor) -> Tensor:
        with torch.no_grad():
            for layer in layers:
                x = layer(x)
        return x[:, 0]

    center = f(2 * torch.rand(200, d, dtype=DOUBLE) - 1).median()
    return lambda x: f(x) - center


class TestLemmaA5:
    @given(d=st.integers(1, 3), r=st.floats(0.01, 1), seed=st.integers(0, 2**31))
    @settings(deadline=None, max_examples=15)
    def test_no_ball_holds_more_errors_than_the_margins_of_random_nets_admit(self, d: int, r: float, seed: int) -> None:
        f, draw = random_classifier(d, seed), torch.Generator().manual_seed(seed)
        x = 2 * torch.rand(100, d, dtype=DOUBLE, generator=draw) - 1
        y = 2.0 * torch.randint(2, (100,), generator=draw) - 1
        assert robust_error(f, x, y, r) <= margin_error(y * f(x), r + 1e-9)

    def test_where_the_slope_is_one_margins_and_robust_errors_agree_and_ten_percent_less_is_too_little(self) -> None:
        unit = distance_layer([signed_max([Term(0)], 4.0, 1)], DOUBLE)  # f(x) = x
        x = torch.linspace(-1, 1, 201, dtype=DOUBLE)[:, None]
        y = torch.ones(201, dtype=DOUBLE)
        truth = robust_error(lambda x: unit(x)[:, 0], x, y, 0.5)
        assert truth == pytest.approx(margin_error(y * x[:, 0], 0.5), abs=0.01)
        assert truth > margin_error(y * x[:, 0], 0.45) + 0.02

    def test_a_function_ten_percent_steeper_breaks_it(self) -> None:
        x = torch.linspace(0.005, 1, 200, dtype=DOUBLE)[:, None]
        y = torch.ones(200, dtype=DOUBLE)
        assert robust_error(lambda x: 1.1 * x[:, 0], x, y, 0.5) == margin_error(x[:, 0], 0.5)
        assert robust_error(lambda x: 1.1 * (x[:, 0] - 0.1), x, y, 0.5) > margin_error(1.1 * (x[:, 0] - 0.1), 0.5)

    @pytest.mark.parametrize("attack", ["pgd", "smooth"])
    def test_every_image_that_turns_on_the_trained_mnist_net_had_a_margin_below_the_radius(
        self, attack: str, linf_data: Callable[[str], Path]
    ) -> None:
        net, x, y = two_digits((4, 9), linf_data("mnist"))
        margins = signed_margins(net, x, y)
        turned_at_all = 0
        for r in (0.3, 0.45):
            images = adversarial_images(net, x, y, r, steps=20, attack=attack)  # type: ignore[arg-type]
            turned = signed_margins(net, images, y) <= 0
            assert (margins[turned] <= r + 1e-5).all()
            assert turned.double().mean() <= margin_error(margins, r + 1e-5)
            turned_at_all += int(turned.sum())
        assert turned_at_all > 0


def binary_net(net: LInfDistNet, positive: int, negative: int) -> LInfDistNet:
    """The net that is left when all classes but two are struck out: half its difference is 1-Lipschitz."""
    kept, state = [positive, negative], net.state_dict()
    state |= {"top.weight": state["top.weight"][kept], "top.bias": state["top.bias"][kept]}
    pair = LInfDistNet(**{**net.config, "num_classes": 2})
    pair.load_state_dict(state)
    return pair.train(net.training)


def two_digits(classes: tuple[int, int], root: Path) -> tuple[LInfDistNet, Tensor, Tensor]:
    """The trained MNIST net between two classes, and 40 test images of them with labels 0 and 1."""
    whole = lib.load(ROOT / "results/mnist/linf-dist-net/laptop-0.safetensors")
    test = load_data(recipes.load("mnist/linf-dist-net"), root).test
    assert isinstance(whole, LInfDistNet)
    chosen = torch.cat([(test.labels == c).nonzero()[:20, 0] for c in classes])
    return binary_net(whole, *classes), batch(test, chosen), (test.labels[chosen] == classes[1]).long()


def signed_margins(net: LInfDistNet, x: Tensor, y: Tensor) -> Tensor:
    """y f(x) in pixels, with f half the difference of the two logits."""
    with torch.no_grad():
        logits = net(x).double()
    return net.std * (1 - 2 * y) * (logits[:, 0] - logits[:, 1]) / 2


def test_between_two_classes_the_certified_radius_is_the_margin_of_the_theorem() -> None:
    torch.manual_seed(0)
    net = LInfDistNet((1, 4, 4), 5, width=8, depth=3, mean=0.2, std=0.5).eval()
    pair, x = binary_net(net, 4, 1), torch.rand(50, 1, 4, 4)
    assert torch.equal(pair(x), net(x)[:, [4, 1]])
    y = pair(x).argmax(1)
    radius = lib.certify(pair, x, y, 0.1, "margin").radius
    torch.testing.assert_close(radius, signed_margins(pair, x, y), rtol=0, atol=1e-5)


@given(seed=st.integers(0, 2**31), depth=st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_on_each_piece_a_net_is_affine_in_its_weights_with_slopes_of_size_0_or_1(seed: int, depth: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = LInfDistNet((1, 3, 3), 2, width=7, depth=depth, identity=0.0).double().eval()
        image = torch.rand(1, 1, 3, 3, dtype=DOUBLE, requires_grad=True)
    terms = [image, *net.parameters()]
    f = net(image)[0, 0]
    slopes = torch.autograd.grad(f, terms)
    assert {entry for slope in slopes for entry in slope.flatten().tolist()} <= {-1.0, 0.0, 1.0}
    affine = sum((slope * term).sum() for slope, term in zip(slopes, terms, strict=True))
    torch.testing.assert_close(affine, f, rtol=0, atol=1e-12)


class TestMarginBound:
    @given(seed=st.integers(0, 2**31), n=st.integers(1, 50), r=st.floats(0, 0.5), slope=st.floats(0, 1))
    @settings(deadline=None, max_examples=25)
    def test_it_is_the_infimum_over_delta(self, seed: int, n: int, r: float, slope: float) -> None:
        margins = 2.5 * torch.rand(n, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)) - 0.5
        found = margin_bound(margins, r, slope, 1.0).value

        def at(delta: float) -> float:
            logs = math.sqrt(math.log(math.log2(2 / delta)) / n)
            return margin_error(margins, r + delta) + slope / delta + logs + 1 / math.sqrt(n)

        grid = [k / 500 for k in range(1, 501)] + [d for d in (margins - r - 1e-9).tolist() if 1e-6 < d <= 1]
        tried = min(at(delta) for delta in grid)
        assert found <= tried + 1e-12  # nothing lower was missed
        assert found >= min(tried, at(1.0)) - 0.02 - slope / 100  # and the infimum is approached

    def test_by_hand(self) -> None:
        margins = torch.tensor([0.0, 0.5, 2.0, 2.0])
        found = margin_bound(margins, 0.0, 0.1, 1.0)
        # delta just below 1/2 counts one margin, delta = 1 counts two
        wanted = 1 / 4 + 0.1 / 0.5 + math.sqrt(math.log(2) / 4) + 1 / 2
        assert found.value == pytest.approx(min(wanted, 2 / 4 + 0.1 + 1 / 2))
        assert found.delta == 1.0
        assert margin_bound(margins, 0.0, 0.0, 1.0).value == pytest.approx(min(wanted - 0.2, 1.0))

    def test_wide_margins_leave_the_terms_of_the_network_alone(self) -> None:
        found = margin_bound(torch.full((400,), 3.0), 0.5, 0.02, 1.0)
        assert found == (pytest.approx(0.02 + 1 / 20), 1.0)

    def test_a_larger_radius_never_lowers_it(self) -> None:
        margins = torch.rand(100, generator=torch.Generator().manual_seed(0))
        bounds = [margin_bound(margins, r, 0.05, 1.0).value for r in (0.0, 0.1, 0.3, 0.6)]
        assert bounds == sorted(bounds) and bounds[0] < bounds[-1]

    @pytest.mark.parametrize(
        ("n", "slope", "t", "sentence"),
        [
            (0, 0.1, 1.0, "margins is empty, expected at least one margin"),
            (3, -0.1, 1.0, "slope is -0.1, expected at least 0"),
            (3, math.nan, 1.0, "slope is nan, expected at least 0"),
            (3, 0.1, 0.0, "t is 0.0, expected more than 0"),
        ],
    )
    def test_what_makes_no_bound_is_refused(self, n: int, slope: float, t: float, sentence: str) -> None:
        for bound in (margin_bound, counting_bound):
            with pytest.raises(ValueError, match=sentence):
                bound(torch.ones(n), 0.0, slope, t)


class TestCountingBound:
    @given(seed=st.integers(0, 2**31), n=st.integers(1, 50), r=st.floats(0, 0.5), slope=st.floats(0, 1))
    @settings(deadline=None, max_examples=50)
    def test_it_is_never_more_than_the_margin_bound(self, seed: int, n: int, r: float, slope: float) -> None:
        margins = 2.5 * torch.rand(n, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)) - 0.5
        assert counting_bound(margins, r, slope, 1.0) <= margin_bound(margins, r, slope, 1.0).value

    def test_by_hand(self) -> None:
        margins = torch.tensor([0.0, 0.5, 2.0, 2.0])
        assert counting_bound(margins, 0.5, 0.1, 1.5, 100) == pytest.approx(2 / 4 + 0.1 + 1.5 / 10)

    @given(seed=st.integers(0, 2**31), r=st.floats(-1, 1))
    @settings(deadline=None, max_examples=50)
    def test_an_event_of_margins_is_a_sign_of_a_net_whose_last_bias_moved(self, seed: int, r: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        w, x = (torch.randn(n, 3, dtype=DOUBLE, generator=generator) for n in (1, 30))
        bias = torch.randn(1, dtype=DOUBLE, generator=generator)
        y = random_signs(1, 30, seed)[0]
        f, lowered, raised = (lib.lp_dist(x, w)[:, 0] + b for b in (bias, bias - r, bias + r))
        far = (f - y * r).abs() > 1e-12  # elsewhere rounding decides
        events = torch.where(y > 0, lowered <= 0, raised >= 0)
        assert torch.equal((y * f <= r)[far], events[far])


class TestQuantities:
    def test_the_papers_nets_are_far_beyond_their_samples(self) -> None:
        assert network_term(*CIFAR10, 50_000) == pytest.approx(1.573e8 / 223.6, rel=1e-3)
        assert network_term(*MNIST, 60_000) > 5e5

    @pytest.mark.parametrize("level", [1.0, 0.5])
    def test_the_samples_needed_are_those_at_which_the_bound_comes_down_to_the_level(self, level: float) -> None:
        n = samples_needed(8, 2, 0.5, 1.0, level)
        margins = torch.full((round(n),), 0.5001)
        slope = network_term(8, 2, n)
        assert margin_bound(margins, 0.0, slope, 1.0).value == pytest.approx(level, rel=1e-3)
        fewer = margins[: round(n / 1.21)]
        assert margin_bound(fewer, 0.0, network_term(8, 2, len(fewer)), 1.0).value > 1.05 * level

    def test_vc_dimensions_grow_as_the_lemmas_say(self) -> None:
        logs = math.log(2 * 5 * 100) / math.log(5 * 100)
        assert relu_vc_dimension(200, 5) / relu_vc_dimension(100, 5) == pytest.approx(4 * logs)
        ours = linf_dist_vc_dimension(200, 5) / linf_dist_vc_dimension(100, 5)
        assert ours == pytest.approx(16 * logs * (math.log(200) / math.log(100)) ** 2)
        deeper = linf_dist_vc_dimension(100, 10) / linf_dist_vc_dimension(100, 5)
        assert deeper == pytest.approx(4 * logs)

    @pytest.mark.parametrize("width", [4, 64, 5120])
    @pytest.mark.parametrize("depth", [2, 5, 10])
    def test_eq_18_is_eq_17_at_the_size_of_the_relu_network_up_to_a_constant(self, width: int, depth: int) -> None:
        substituted = relu_vc_dimension(width**2, depth * math.log(width))
        assert 1 <= substituted / linf_dist_vc_dimension(width, depth) <= 3

    @pytest.mark.parametrize(("width", "depth"), [(4, 2), (8, 2), (6, 3)])
    def test_the_relu_network_of_a_real_net_has_that_size(self, width: int, depth: int) -> None:
        layers = [LInfDist(width, width, bias=True).eval() for _ in range(depth)]
        relu = relu_linf_dist_net(layers)
        assert relu.width == 2 * width**2
        assert relu.depth == depth * (1 + math.ceil(math.log2(width)))

    def test_massart_falls_as_one_over_root_n_and_never_exceeds_one(self) -> None:
        assert massart(100, 50) == massart(100, 100) == massart(100, 400) == 1
        assert massart(2, 200) == pytest.approx(math.sqrt(4 * math.log(100 * math.e) / 200))
        ratio = massart(10, 10**8) / massart(10, 10**10)
        assert 8 < ratio < 10
