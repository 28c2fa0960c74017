"""Certificates: what each method proves, that nothing can break it, and what it refuses."""

import copy
import math
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.nets.base import PlainNet
from lib.nets.box import Box
from lib.nets.head import Linear
from lib.nets.layers import LInfDist
from lib.nets.models import ConvLInfDistNetMLP, LInfDistNet, LInfDistNetMLP, Net, ReLUNet
from lib.nets.normalisation import Normalize
from lib.nets.relunet import Conv2d
from lib.nets.sortnet import SortNet
from lib.robustness import certify as certificates
from lib.robustness.attacks import robust_correct
from lib.robustness.certify import Certificate, certified_radius, certify
from lib.robustness.inputs import pixel_box
from lib.theory.addernet import with_batch_norm

SHAPE = (1, 4, 4)
METHODS = ("margin", "interval")
LARGEST_FLOAT = torch.finfo(torch.float32).max


def fitted(net: Net, x: Tensor, y: Tensor, steps: int = 60) -> Net:
    """A few steps towards large margins, so that some samples can be certified and others not."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for step in range(steps):
        logits = net(x, 8.0 if step < steps / 2 else math.inf)
        loss = torch.nn.functional.multi_margin_loss(logits, y, margin=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def sample() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    y = torch.arange(60) % 3
    centers = torch.rand(3, *SHAPE)
    return (centers[y] + 0.25 * torch.randn(60, *SHAPE)).clamp(0, 1), y


def _count(net: Net, cls: type) -> int:
    return sum(type(module) is cls for module in net.modules())


NETS = [LInfDistNet, SortNet, LInfDistNetMLP, ConvLInfDistNetMLP, ReLUNet]


@pytest.fixture(scope="module", params=NETS, ids=lambda c: c.__name__)
def net(request: pytest.FixtureRequest, sample: tuple[Tensor, Tensor]) -> Net:
    torch.manual_seed(1)
    sizes = {"width": 4, "hidden": 16} if request.param is ConvLInfDistNetMLP else {"width": 24, "depth": 2}
    sizes |= {"keep_prob": 0.8} if request.param is SortNet else {}
    sizes |= {"width": 4, "depth": 4, "hidden": 16} if request.param is ReLUNet else {}
    return fitted(request.param(SHAPE, 3, mean=0.4, std=0.3, **sizes), *sample)


class TestProofs:
    def test_some_samples_are_certified_and_some_are_not(self, net: Net, sample: tuple[Tensor, Tensor]) -> None:
        certified = certify(net, *sample, 0.02).certified
        assert 0 < certified.sum() < len(certified)

    @pytest.mark.parametrize("method", METHODS)
    def test_no_image_within_eps_changes_a_certified_prediction(
        self, net: Net, sample: tuple[Tensor, Tensor], method: str
    ) -> None:
        x, y = sample
        for eps in (0.01, 0.05):
            certified = certify(net, x, y, eps, method).certified
            lower, upper = pixel_box(x, eps)
            for _ in range(200):
                corner = torch.where(torch.rand_like(x) < 0.5, lower, upper)
                assert (net(corner).argmax(1) == y)[certified].all()

    def test_intervals_prove_whatever_the_margin_proves(self, net: Net, sample: tuple[Tensor, Tensor]) -> None:
        x, y = sample
        for eps in (0.005, 0.02, 0.05):
            margin, interval = (certify(net, x, y, eps, method) for method in METHODS)
            # by boxes around all images, those that `certify` leaves to the margin too
            alone = certificates._proves_by_interval(net, x, y, torch.full((len(x),), eps, dtype=torch.float64))
            assert (margin.certified <= alone).all()
            assert torch.equal(interval.certified, interval.correct & alone)
            assert torch.equal(margin.radius, interval.radius)

    @pytest.mark.parametrize("method", METHODS)
    def test_each_image_has_its_own_answer_in_whatever_order_and_chunks(
        self, net: Net, sample: tuple[Tensor, Tensor], method: certificates.Method, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x, y = sample
        labels = torch.where(torch.arange(60) % 7 == 0, y.roll(1), y)
        whole, radii = certify(net, x, labels, 0.02, method), certified_radius(net, x, labels, method)
        assert 0 < whole.certified.sum() < whole.correct.sum() < 60
        order = torch.randperm(60)
        monkeypatch.setattr(certificates, "CHUNK", 7)
        parts = certify(net, x[order], labels[order], 0.02, method)
        assert all(torch.equal(a, b[order]) for a, b in zip(parts, whole, strict=True))
        assert torch.equal(certified_radius(net, x[order], labels[order], method), radii[order])

    def test_a_certified_sample_is_correct_and_a_wrong_one_has_radius_zero(
        self, net: Net, sample: tuple[Tensor, Tensor]
    ) -> None:
        x, y = sample
        shuffled = y.roll(1)
        for method in METHODS:
            result = certify(net, x, shuffled, 0.01, method)
            assert (result.certified <= result.correct).all()
            assert (result.radius[~result.correct] == 0).all()
            assert not result.correct.all()

    def test_margin_certificates_are_decided_by_the_radius(self, net: Net, sample: tuple[Tensor, Tensor]) -> None:
        for eps in (0.005, 0.02, 0.05):
            result = certify(net, *sample, eps, "margin")
            assert (result.certified >= (result.radius > eps)).all()
            # a radius that is searched for may end one step of the search below eps, where the proof still holds
            step = 0 if isinstance(net, PlainNet) else 2.0**-certificates.BISECTIONS
            assert (result.certified <= (result.radius > eps - step)).all()

    def test_the_searched_radius_is_certified_and_cannot_be_much_larger(
        self, net: Net, sample: tuple[Tensor, Tensor]
    ) -> None:
        x, y = sample
        radius = certified_radius(net, x, y, "interval")
        assert (radius >= certified_radius(net, x, y, "margin")).all()
        one = int(radius.argmax())
        for factor, proved in ((1 - 1e-6, True), (1.001, False)):
            result = certify(net, x[one : one + 1], y[one : one + 1], float(radius[one]) * factor)
            assert result.certified.item() is proved

    @pytest.mark.parametrize("method", METHODS)
    def test_radii_are_the_largest_to_within_their_last_halving(
        self, net: Net, sample: tuple[Tensor, Tensor], method: certificates.Method
    ) -> None:
        radii = certified_radius(net, *sample, method)
        inside = (radii > 0) & (radii < 0.9)
        assert inside.sum() > 5 and radii.dtype is torch.float64
        for image, label, radius in zip(*(v[inside] for v in sample), radii[inside].tolist(), strict=True):
            assert certify(net, image[None], label[None], radius, method).certified
            assert not certify(net, image[None], label[None], radius + 2.0**-24, method).certified

    def test_training_mode_is_overruled_and_restored(self, net: Net, sample: tuple[Tensor, Tensor]) -> None:
        want = certify(net, *sample, 0.02)
        first = net.head.convolutions[0] if isinstance(net, ReLUNet) else net.layers[0]
        net.train()
        first.eval()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        got = certify(net, *sample, 0.02)
        assert net.training
        assert not first.training
        assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        net.eval()

    @pytest.mark.parametrize("inside", [False, True])
    @pytest.mark.parametrize("method", METHODS)
    def test_inference_mode_changes_nothing(
        self, net: Net, sample: tuple[Tensor, Tensor], method: certificates.Method, inside: bool
    ) -> None:
        want, radii = certify(net, *sample, 0.02, method), certified_radius(net, *sample, method)
        with torch.inference_mode():
            made, images = copy.deepcopy(net), sample[0].clone()  # their flags can never be set back
        flags = [parameter.requires_grad for parameter in made.parameters()]
        with torch.inference_mode(inside):
            for each in (net, made):
                assert all(map(torch.equal, certify(each, images, sample[1], 0.02, method), want))
                assert torch.equal(certified_radius(each, images, sample[1], method), radii)
                assert [parameter.requires_grad for parameter in each.parameters()] == flags

    def test_margin_certificates_take_one_forward_pass(
        self, net: Net, sample: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        passes: list[type] = []
        layer = Conv2d if isinstance(net, ReLUNet) else type(net.layers[-1])
        for cls in {Normalize, layer}:
            whole = cls.forward
            monkeypatch.setattr(cls, "forward", lambda m, *a, f=whole: passes.append(type(m)) or f(m, *a))
        for measure in (
            lambda: certify(net, *sample, 0.02, "margin"),
            lambda: certified_radius(net, *sample, "margin"),
        ):
            passes.clear()
            measure()
            assert passes.count(Normalize) == passes.count(layer) / _count(net, layer) == 1

    def test_empty_batch(self, net: Net) -> None:
        result = certify(net, torch.empty(0, *SHAPE), torch.empty(0, dtype=torch.int64), 0.1)
        assert [len(column) for column in result] == [0, 0, 0]


class TestTies:
    def net_with_equal_logits(self) -> LInfDistNet:
        net = LInfDistNet((1, 1, 1), 2, width=1, depth=1).eval()
        net.top.weight.data = torch.tensor([[0.0], [1.0]])
        return net

    @pytest.mark.parametrize("method", METHODS)
    def test_a_tie_is_not_certified(self, method: str) -> None:
        x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
        result = certify(self.net_with_equal_logits(), x, y, 1e-6, method)  # type: ignore[arg-type]
        assert result.correct.item()
        assert not result.certified.item()
        assert result.radius.item() == 0

    def test_the_decision_boundary_is_found_from_the_right_side(self) -> None:
        x, y = torch.full((1, 1, 1, 1), 0.25), torch.tensor([0])
        net = self.net_with_equal_logits()
        for method in METHODS:
            assert certify(net, x, y, 0.2499, method).certified.item()  # type: ignore[arg-type]
            assert not certify(net, x, y, 0.25, method).certified.item()  # type: ignore[arg-type]


class TestEdges:
    def net_of_one_pixel(self, distance: float) -> LInfDistNet:
        net = LInfDistNet((1, 1, 1), 2, width=1, depth=1, mean=0.5).eval().requires_grad_(False)
        net.top.weight.copy_(torch.tensor([[0.0], [distance]]))
        return net

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])

    @pytest.mark.parametrize("method", METHODS)
    def test_no_radius_is_larger_than_a_pixel_can_move(self, method: certificates.Method) -> None:
        net = self.net_of_one_pixel(100.0)
        assert certify(net, self.x, self.y, 0.999, method).certified.item()
        assert certify(net, self.x, self.y, 0.999, method).radius.item() == 1
        assert certified_radius(net, self.x, self.y, method).item() == 1

    def test_a_box_may_miss_by_a_rounding_what_the_margin_certifies(self) -> None:
        eps = 0.003
        net = self.net_of_one_pixel(2 * (eps + 1.7e-8))
        alone = certificates._proves_by_interval(net, self.x, self.y, torch.tensor([eps], dtype=torch.float64))
        assert not alone.item()
        assert certify(net, self.x, self.y, eps, "interval").certified.item()
        margin, interval = (certified_radius(net, self.x, self.y, method).item() for method in METHODS)
        assert eps < margin <= interval


def test_clipping_to_valid_pixels_helps_where_pixels_are_black() -> None:
    net = LInfDistNet((1, 1, 1), 2, width=1, depth=1).eval()
    net.top.weight.data = torch.tensor([[-0.3], [1.5]])
    x, y = torch.zeros(1, 1, 1, 1), torch.tensor([0])
    assert certify(net, x, y, 0.59, "interval").certified.item()
    assert certify(net, x, y, 0.59, "margin").radius.item() == pytest.approx(0.6, abs=1e-5)
    assert not certify(net, x, y, 0.61, "margin").certified.item()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 1e4, 1e6]))
def test_rounding_cannot_break_a_margin_certificate(seed: int, scale: float) -> None:
    """At large activations float32 loses the margin itself; the radius must then shrink to what was executed."""
    torch.manual_seed(seed)
    net = LInfDistNet((1, 2, 2), 3, width=6, depth=3).eval()
    for layer in [*net.layers, net.top]:
        assert isinstance(layer, LInfDist)
        layer.weight.data.mul_(scale)
    x = torch.rand(20, 1, 2, 2)
    y = net(x).argmax(1)
    radius = certify(net, x, y, 0.5, "margin").radius
    box = pixel_box(x, radius)
    for _ in range(20):
        corner = torch.where(torch.rand_like(x) < 0.5, box.lower, box.upper)
        assert (net(corner).argmax(1) == y)[radius > 0].all()


class TestOverflow:
    """Finite weights whose float32 execution leaves the range of float32 somewhere in the ball: nothing is proved."""

    def assert_unproved(self, net: Net, pixel: float, broken: float, method: str) -> None:
        """One pixel has label 1 and another value label 0, so no certificate may reach from the one to the other."""
        x, y = torch.tensor([pixel, broken]).view(2, 1, 1, 1), torch.tensor([1])
        with torch.no_grad():
            assert net(x).argmax(1).tolist() == [1, 0]
        eps = broken - pixel + 1e-6
        assert not certify(net, x[:1], y, eps, method).certified
        assert certified_radius(net, x[:1], y, method) < eps

    @pytest.mark.parametrize("method", METHODS)
    def test_in_the_head(self, method: str) -> None:
        net = LInfDistNetMLP((1, 1, 1), 2, width=1, depth=1, hidden=1).eval()
        weights = {"layers.0.weight": [[0.0]], "head.fc1.weight": [[4.0]], "head.fc2.weight": [[3.39e38]] * 2}
        weights |= {"head.fc2.bias": [1e37, 2e37]}
        net.load_state_dict({name: torch.tensor(value) for name, value in weights.items()}, strict=False)
        self.assert_unproved(net, 0.2, 0.9, method)

    @pytest.mark.parametrize("method", METHODS)
    def test_in_the_distances(self, method: str) -> None:
        net = LInfDistNet((1, 1, 1), 2, width=1, depth=2, std=2.0**-100).eval()
        net.layers[0].weight.data.fill_(-9.5e30)
        net.top.weight.data.fill_(-LARGEST_FLOAT)
        net.top.bias.data = torch.tensor([0.0, -4.1e31])
        self.assert_unproved(net, 0.3, 0.9, method)

    @pytest.mark.parametrize("method", METHODS)
    def test_in_a_distance_that_has_no_weight(self, method: str) -> None:
        # an infinite second distance times a coefficient 0 is NaN, and argmax takes NaN for the largest
        net = SortNet((1, 1, 1), 2, width=2, depth=2, keep_prob=1.0, std=2.0**-100).eval()
        net.layers[0].weight.data.fill_(-9.5e30)
        net.top.weight.data = torch.tensor([[-LARGEST_FLOAT] * 2, [0.0] * 2])
        self.assert_unproved(net, 0.3, 0.9, method)

    @pytest.mark.parametrize("method", METHODS)
    def test_below_a_head_that_hides_it(self, method: str) -> None:
        # tanh maps an infinite feature to 1 and NaN to NaN: a head must not bound what lies below it
        net = LInfDistNetMLP((1, 1, 1), 2, width=1, depth=1, hidden=1).eval()
        net.head.fc1.weight.data.fill_(3e38)
        net.head.fc2.weight.data.fill_(0.0)
        net.head.fc2.bias.data = torch.tensor([0.0, 1.0])
        net.layers[0].weight.data.fill_(-3.0)
        assert not certify(net, torch.full((1, 1, 1, 1), 0.5), torch.tensor([1]), 0.1, method).certified


class TestUnderflow:
    """Near the smallest float a quotient or a product is off by more than its 2^-24th part."""

    Q = 2.0**-149

    def assert_unproved(self, net: Net, pixel: int, broken: int, method: str) -> None:
        x, other = (torch.full((1, *net.input_shape), value * self.Q) for value in (pixel, broken))
        label, eps = net(x).argmax(1), (broken - pixel) * self.Q
        assert net(other).argmax(1) != label
        assert not certify(net, x, label, eps, method).certified
        assert certified_radius(net, x, label, method) < eps

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(("std", "pixel", "broken", "weights"), [(10.0, 5, 15, (0, 3)), (0.3081, 6, 7, (19, 26))])
    def test_in_the_normalisation(
        self, std: float, pixel: int, broken: int, weights: tuple[int, int], method: str
    ) -> None:
        net = LInfDistNet((1, 1, 1), 2, width=1, depth=1, std=std).eval().requires_grad_(False)
        net.top.weight.copy_(torch.tensor(weights)[:, None] * self.Q)
        self.assert_unproved(net, pixel, broken, method)

    @pytest.mark.parametrize("method", METHODS)
    def test_in_the_products_of_a_sortnet(self, method: str) -> None:
        net = SortNet((1, 1, 12), 2, width=1, depth=1, keep_prob=0.7).eval().requires_grad_(False)
        net.top.weight.copy_(torch.tensor([0, 15])[:, None] * self.Q)
        self.assert_unproved(net, 7, 8, method)


class TestRefusals:
    net = LInfDistNet(SHAPE, 3, width=4, depth=2)

    @pytest.mark.parametrize("eps", [0.0, -0.1, 1.0, math.nan, math.inf, "9/8", "wide"])
    def test_eps_out_of_range(self, eps: float | str) -> None:
        with pytest.raises(ValueError, match="eps"):
            certify(self.net, torch.rand(1, *SHAPE), torch.tensor([0]), eps)

    def test_unknown_method(self) -> None:
        for call in (lambda *a: certify(*a, 0.1, "magic"), lambda *a: certified_radius(*a, "magic")):
            with pytest.raises(ValueError, match="method must be one of margin, interval, got 'magic'"):
                call(self.net, torch.rand(1, *SHAPE), torch.tensor([0]))

    @pytest.mark.parametrize("call", [lambda *a: certify(*a, 0.1), certified_radius])
    def test_what_the_checks_of_batches_and_of_nets_refuse(self, call: Callable[..., object]) -> None:
        x, y = torch.rand(1, *SHAPE), torch.tensor([0])
        with pytest.raises(ValueError, match="x must lie in"):
            call(self.net, x + 1, y)
        with pytest.raises(TypeError, match=r"to be certified, got BatchNorm layers\.0\.shift"):
            call(with_batch_norm(LInfDistNet(SHAPE, 3, width=4, depth=2)), x, y)

    @pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint64])
    @pytest.mark.parametrize("cls", [LInfDistNet, LInfDistNetMLP])
    def test_labels_of_any_integer_type_are_welcome(self, cls: type, dtype: torch.dtype) -> None:
        net, x = cls(SHAPE, 3, width=4, depth=2).eval(), torch.rand(4, *SHAPE)
        y = net(x).argmax(1)
        for method in METHODS:
            got, wanted = (certify(net, x, labels, 0.01, method) for labels in (y.to(dtype), y))
            assert all(map(torch.equal, got, wanted))

    def test_the_radius_follows_the_std_that_is_executed(self) -> None:
        torch.manual_seed(0)
        net, twin = (LInfDistNet(SHAPE, 3, width=4, depth=2, std=std).eval() for std in (0.3, 0.03))
        twin.load_state_dict(net.state_dict())
        net.normalize.std = 0.03
        x = torch.rand(20, *SHAPE)
        y = net(x).argmax(1)
        radii = certify(net, x, y, 0.01).radius
        assert (radii > 0).any() and torch.equal(radii, certify(twin, x, y, 0.01).radius)

    def test_weights_of_several_dtypes(self) -> None:
        net = LInfDistNet(SHAPE, 3, width=4, depth=2)
        net.top.double()
        with pytest.raises(TypeError, match=r"of one dtype, float32 or float64, got torch\.float32, torch\.float64"):
            certify(net, torch.rand(1, *SHAPE), torch.tensor([0]), 0.1)

    def test_a_net_of_half_precision(self) -> None:
        net = LInfDistNet(SHAPE, 3, width=4, depth=2).to(torch.bfloat16)
        with pytest.raises(TypeError, match=r"got torch\.bfloat16"):
            certify(net, torch.rand(1, *SHAPE).to(torch.bfloat16), torch.tensor([0]), 0.1)

    @pytest.mark.parametrize("call", [lambda *a: certify(*a, 0.1), certified_radius])
    def test_autocast_on_the_processor(self, call: Callable[..., object]) -> None:
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="autocast=True"):
            call(self.net, torch.rand(1, *SHAPE), torch.tensor([0]))


def test_a_certificate_is_three_columns() -> None:
    assert Certificate._fields == ("correct", "certified", "radius")


@pytest.mark.parametrize("method", METHODS)
def test_threads_do_not_take_the_evaluation_mode_from_each_other(method: certificates.Method) -> None:
    torch.manual_seed(0)
    net, x = LInfDistNet((1, 8, 8), 3, width=64, depth=3, identity=0.0), torch.rand(600, 1, 8, 8)
    for _ in range(20):
        net.train()(x)
    y = net.eval()(x).argmax(1)
    alone, means = certify(net, x, y, 0.004, method), [m.clone() for m in net.buffers()]
    net.train()
    for _ in range(5):
        other = threading.Thread(target=certify, args=(net, x[:200], y[:200], 0.004, method))
        other.start()
        assert all(map(torch.equal, certify(net, x, y, 0.004, method), alone))
        other.join()
        assert all(module.training for module in net.modules())
        assert all(map(torch.equal, net.buffers(), means))


def test_a_margin_that_flushed_denormals_can_take_away_proves_nothing() -> None:
    # the logits differ by 5e-39, and some threads may flush what is denormal while others do not
    net = LInfDistNet((1, 1, 1), 2, width=1, depth=1, identity=0.0).eval().requires_grad_(False)
    net.top.weight.copy_(torch.tensor([[0.0], [0.0]]))
    net.top.bias.copy_(torch.tensor([0.0, 5e-39]))
    x, y = torch.full((1, 1, 1, 1), 3e-38), torch.tensor([0])
    assert net(x).argmax(1) == y and not certify(net, x, y, 1e-40).certified
    net.top.bias[1] = 1e-30
    assert certify(net, x, y, 1e-40).certified


def _tiny_pixel_net() -> tuple[LInfDistNet, Tensor]:
    """A net with a std of 2^-100, and a denormal pixel that is 5e-9 behind it."""
    net = LInfDistNet((1, 1, 1), 2, width=1, depth=1, mean=0.0, std=2.0**-100, identity=0.0).eval()
    net.requires_grad_(False).top.weight.copy_(torch.tensor([[0.0], [7e-9]]))
    return net, torch.full((1, 1, 1, 1), 4e-39)


@pytest.mark.parametrize("method", METHODS)
def test_a_small_std_enlarges_what_flushing_takes_from_a_pixel(method: certificates.Method) -> None:
    net, x = _tiny_pixel_net()
    assert net(x).argmax(1) == 1
    assert not certify(net, x, torch.tensor([1]), 1e-40, method).certified


def test_a_thread_that_flushes_reads_another_label_there_and_is_refused(flushing: None) -> None:
    net, x = _tiny_pixel_net()
    assert net(x).argmax(1) == 0
    # nor could intervals hold there: layers can enlarge one lost denormal as much as they like
    for evaluate in (certify, robust_correct):
        with pytest.raises(ValueError, match="needs denormal numbers, got a thread that flushes them"):
            evaluate(net, x, torch.tensor([0]), 0.1)


@pytest.mark.parametrize("method", METHODS)
def test_a_head_pays_for_denormals_that_its_weights_enlarge(method: certificates.Method) -> None:
    # behind a weight of 1e38 a feature of 8e-39, flushed or not, is the difference of tanh(0.8) and tanh(0)
    net = LInfDistNetMLP((1, 1, 1), 2, width=1, depth=2, hidden=1, mean=0.0, std=1.0, identity=0.0).eval()
    net.requires_grad_(False)
    for layer in net.layers:
        layer.weight.zero_()
    net.head.fc1.weight.fill_(1e38)
    net.head.fc2.weight.copy_(torch.tensor([[1.0], [0.0]]))
    net.head.fc2.bias.copy_(torch.tensor([-0.3, 0.0]))
    x = torch.full((1, 1, 1, 1), 8e-39)
    assert net(x).argmax(1) == 0
    assert not certify(net, x, torch.tensor([0]), 1e-42, method).certified


def test_a_head_of_too_many_inputs_has_no_bounds() -> None:
    # n u reaches 1/2 at 2^23 - 2, and n u / (1 - n u) would be negative from 2^24 on
    last = Linear(1, 2).requires_grad_(False)
    for inputs, bounded in ((2**23 - 3, True), (2**23 - 2, False), (2**24, False)):
        last.weight = torch.nn.Parameter(torch.ones(1, 1).expand(1, inputs), requires_grad=False)
        last.bias = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        v = torch.ones(1, 1).expand(1, inputs)
        assert bool(last.rounding(Box(v, v)).isfinite()) == bounded


def test_a_net_of_more_roundings_than_are_paid_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = LInfDistNet(SHAPE, 3, width=4, depth=2)
    monkeypatch.setattr(certificates, "MOST_ROUNDINGS", net.roundings() - 1)
    with pytest.raises(ValueError, match="at most 5 roundings to be certified, got 6"):
        certify(net, torch.rand(1, *SHAPE), torch.tensor([0]), 0.1)
    monkeypatch.setattr(certificates, "MOST_ROUNDINGS", net.roundings())
    certify(net, torch.rand(1, *SHAPE), torch.tensor([0]), 0.1)
