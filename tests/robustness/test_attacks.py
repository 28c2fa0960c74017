"""Attacks: the paper's PGD step by step, what the stronger attack adds to it, and what both leave untouched."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy, multi_margin_loss

from lib.nets.models import LInfDistNet, LInfDistNetMLP, Net
from lib.nets.sortnet import SortNet
from lib.robustness import attacks
from lib.robustness.attacks import adversarial_images, robust_correct
from lib.robustness.certify import Method, certify
from lib.robustness.inputs import evaluation_mode, pixel_box

SHAPE = (1, 4, 4)
ATTACKS = ("pgd", "smooth")
EPS = 0.05


@pytest.fixture(scope="module")
def sample() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(63) % 3
    centers = torch.rand(3, *SHAPE, generator=generator)
    return (centers[y] + 0.25 * torch.randn(63, *SHAPE, generator=generator)).clamp(0, 1), y


@pytest.fixture(scope="module", params=[LInfDistNet, SortNet, LInfDistNetMLP], ids=lambda c: c.__name__)
def net(request: pytest.FixtureRequest, sample: tuple[Tensor, Tensor]) -> Net:
    """A net with margins on both sides of 2 EPS."""
    torch.manual_seed(1)
    sizes = {"keep_prob": 0.8} if request.param is SortNet else {}
    net = request.param(SHAPE, 3, width=24, depth=2, mean=0.4, std=0.3, **sizes)
    return fitted(net, *sample, 1.0)


def far_corner() -> tuple[LInfDistNet, Tensor, Tensor]:
    """A net that only a joint move of all 16 pixels breaks, with an image and its label.

    h = ||x||_inf and logits -h, -|h - 1|: class 1 wins at x = 0.6 until every single pixel is below 1/2.
    """
    net = LInfDistNet(SHAPE, 2, width=1, depth=2)
    with torch.no_grad():
        net.layers[0].weight.zero_()
        net.top.weight.copy_(torch.tensor([[0.0], [1.0]]))
    return net.eval(), torch.full((1, *SHAPE), 0.6), torch.tensor([1])


def handwritten_digits() -> tuple[LInfDistNet, Tensor, Tensor]:
    """400 digits and a plain net trained on them for 80 steps, p = 8 to inf."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels[:400], dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels[:400])
    torch.manual_seed(0)
    net = LInfDistNet((1, 8, 8), 10, width=32, depth=2, mean=0.3, std=0.37)
    return fitted(net, x, y, 2.0), x, y


def fitted(net: Net, x: Tensor, y: Tensor, threshold: float) -> Net:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for step in range(80):
        loss = multi_margin_loss(net(x, (8.0, 16.0, 64.0, math.inf)[step // 20]), y, margin=threshold)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


class TestEveryAttack:
    @pytest.mark.parametrize("attack", ATTACKS)
    @pytest.mark.parametrize("eps", [0.01, 0.3])
    def test_stays_within_the_box_of_a_certificate(
        self, net: Net, sample: tuple[Tensor, Tensor], attack: str, eps: float
    ) -> None:
        lower, upper = pixel_box(sample[0], eps)
        images = adversarial_images(net, *sample, eps, attack=attack)
        assert (images >= lower).all() and (images <= upper).all()
        assert not torch.equal(images, sample[0])

    @pytest.mark.parametrize("attack", ATTACKS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("eps", [1e-8, 0.003, 8 / 255, 0.3])
    def test_leaves_neither_the_ball_nor_the_valid_pixels_by_a_rounding(
        self, attack: str, dtype: torch.dtype, eps: float
    ) -> None:
        torch.manual_seed(0)
        net = LInfDistNet(SHAPE, 3, width=8, depth=2).eval().to(dtype)
        x, y = (1.4 * torch.rand(60, *SHAPE, dtype=dtype) - 0.2).clamp(0, 1), torch.arange(60) % 3
        images = adversarial_images(net, x, y, eps, 6, attack)
        assert ((images.double() - x.double()).abs() <= eps).all()
        assert (images >= 0).all() and (images <= 1).all()

    @pytest.mark.parametrize("attack", ATTACKS)
    @pytest.mark.parametrize("method", ["margin", "interval"])
    def test_does_not_break_what_is_certified_to_the_last_float(self, attack: str, method: Method) -> None:
        eps, x, y = 0.003, torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
        net = LInfDistNet((1, 1, 1), 2, width=1, depth=1, mean=0.5).eval().requires_grad_(False)
        net.top.weight.copy_(torch.tensor([[0.0], [2 * (eps + 1.7e-8)]]))  # 0.5 + eps in float32 is 2.1e-8 further
        assert certify(net, x, y, eps, method).certified.item()
        assert all(robust_correct(net, x, y, eps, 9, attack, seed).item() for seed in range(5))

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_never_breaks_a_certified_image(self, net: Net, sample: tuple[Tensor, Tensor], attack: str) -> None:
        certified = certify(net, *sample, EPS).certified
        assert 0 < certified.sum() < len(certified)
        assert robust_correct(net, *sample, EPS, attack=attack)[certified].all()

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_counts_no_image_that_the_net_gets_wrong(
        self, net: Net, sample: tuple[Tensor, Tensor], attack: str
    ) -> None:
        x, _ = sample
        assert not robust_correct(net, x, (net(x).argmax(1) + 1) % 3, EPS, attack=attack).any()

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_breaks_most_images_when_all_images_are_in_reach(
        self, net: Net, sample: tuple[Tensor, Tensor], attack: str
    ) -> None:
        assert robust_correct(net, *sample, 0.9, attack=attack).sum() < 0.5 * len(sample[0])

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_a_verdict_is_the_one_of_its_images(self, net: Net, sample: tuple[Tensor, Tensor], attack: str) -> None:
        x, y = sample
        images = adversarial_images(net, x, y, EPS, attack=attack, seed=3)
        expected = (net(x).argmax(1) == y) & (net(images).argmax(1) == y)
        assert torch.equal(robust_correct(net, x, y, EPS, attack=attack, seed=3), expected)

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_draws_are_functions_of_the_seed_alone(self, net: Net, sample: tuple[Tensor, Tensor], attack: str) -> None:
        first, again, other = (adversarial_images(net, *sample, 0.02, 4, attack, seed) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_chunks_do_not_change_the_result(
        self, net: Net, sample: tuple[Tensor, Tensor], attack: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = robust_correct(net, *sample, EPS, attack=attack)
        monkeypatch.setattr(attacks, "CHUNK", 20)
        assert torch.equal(robust_correct(net, *sample, EPS, attack=attack), whole)

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_the_net_comes_back_as_it_was(self, sample: tuple[Tensor, Tensor], attack: str) -> None:
        net = LInfDistNetMLP(SHAPE, 3, width=8, depth=2, hidden=8).train()
        net.head.requires_grad_(False)
        net.layers[0].eval()
        modes = [module.training for module in net.modules()]
        trainable = [parameter.requires_grad for parameter in net.parameters()]
        state = {name: value.clone() for name, value in net.state_dict().items()}
        robust_correct(net, *sample, EPS, 2, attack)
        assert [module.training for module in net.modules()] == modes
        assert [parameter.requires_grad for parameter in net.parameters()] == trainable
        assert all(parameter.grad is None for parameter in net.parameters())
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_works_where_gradients_are_switched_off(self, net: Net, sample: tuple[Tensor, Tensor], attack: str) -> None:
        expected = robust_correct(net, *sample, EPS, 5, attack)
        with torch.no_grad():
            assert torch.equal(robust_correct(net, *sample, EPS, 5, attack), expected)
        with torch.inference_mode():
            images, labels = (each.clone() for each in sample)
            assert torch.equal(robust_correct(net, images, labels, EPS, 5, attack), expected)

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_an_empty_batch_gives_an_empty_verdict(self, net: Net, attack: str) -> None:
        verdict = robust_correct(net, torch.empty(0, *SHAPE), torch.empty(0, dtype=torch.long), EPS, attack=attack)
        assert verdict.shape == (0,) and verdict.dtype is torch.bool

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_on_a_tie_the_first_class_wins(self, attack: str) -> None:
        net = LInfDistNet(SHAPE, 2, width=4, depth=2)
        with torch.no_grad():
            net.top.weight.copy_(net.top.weight[:1].expand(2, -1))
        x = torch.full((2, *SHAPE), 0.5)
        assert robust_correct(net, x, torch.tensor([0, 1]), EPS, 3, attack).tolist() == [True, False]


class TestPgd:
    @pytest.mark.parametrize("steps", [1, 20])
    def test_is_the_papers_formula_step_by_step(self, net: Net, sample: tuple[Tensor, Tensor], steps: int) -> None:
        x, y = sample
        noise = EPS / 4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
        image = (x + noise.clamp(-EPS / 2, EPS / 2)).clamp(0, 1)
        with evaluation_mode(net):
            for _ in range(steps):
                image.requires_grad_()
                (gradient,) = torch.autograd.grad(cross_entropy(net(image), y, reduction="sum"), image)
                image = image.detach() + EPS / 4 * gradient.sign()
                image = torch.minimum(torch.maximum(image, x - EPS), x + EPS).clamp(0, 1)
        torch.testing.assert_close(adversarial_images(net, x, y, EPS, steps, seed=7), image, rtol=0, atol=1e-6)

    def test_moves_from_the_start_only_pixels_that_decide_a_logit(self) -> None:
        net, x, y = far_corner()
        start = x + (0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(-0.1, 0.1)
        moved = adversarial_images(net, x, y, 0.2, steps=1) != start
        assert moved.sum() == 1


class TestSmooth:
    def test_breaks_by_a_joint_move_what_steps_on_single_pixels_cannot(self) -> None:
        net, x, y = far_corner()
        assert net(x).argmax(1) == y
        assert robust_correct(net, x, y, 0.2, attack="pgd").item()
        assert not robust_correct(net, x, y, 0.2, attack="smooth").item()

    def test_breaks_more_handwritten_digits_than_pgd(self) -> None:
        net, x, y = handwritten_digits()
        smooth, pgd = (robust_correct(net, x, y, 0.2, attack=attack) for attack in ("smooth", "pgd"))
        assert smooth.sum() < pgd.sum()

    def test_leaves_an_image_that_is_already_wrong_alone(self, net: Net, sample: tuple[Tensor, Tensor]) -> None:
        x, _ = sample
        assert torch.equal(adversarial_images(net, x, (net(x).argmax(1) + 1) % 3, EPS, attack="smooth"), x)

    def test_more_steps_never_mend_a_broken_image(self, net: Net, sample: tuple[Tensor, Tensor]) -> None:
        few, many = (robust_correct(net, *sample, EPS, steps, "smooth") for steps in (3, 12))
        assert not (many & ~few).any()

    def test_spends_the_given_number_of_gradients(
        self, net: Net, sample: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exponents = []
        gradient = attacks._margin_gradient
        monkeypatch.setattr(attacks, "_margin_gradient", lambda *a: exponents.append(a[-1]) or gradient(*a))
        robust_correct(net, *sample, EPS, 7, "smooth")
        assert exponents == [16, 32, 64, 16, 32, 64, 16]


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"eps": 0.0}, ValueError, "eps is 0.0"),
            ({"eps": 1.0}, ValueError, "eps is 1.0"),
            ({"eps": math.nan}, ValueError, "eps is nan"),
            ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
            ({"steps": 2.5}, TypeError, "steps must be an integer, got 2.5"),
            ({"steps": True}, TypeError, "steps must be an integer, got True"),
            ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
            ({"seed": "a"}, TypeError, "seed must be an integer, got 'a'"),
            ({"attack": "fgsm"}, ValueError, "attack must be one of pgd, smooth, got 'fgsm'"),
            ({"x": torch.full((3, *SHAPE), 1.5)}, ValueError, "x must lie in"),
            ({"x": torch.full((3, *SHAPE), math.nan)}, ValueError, "x must be finite"),
            ({"x": torch.zeros(3, 16)}, ValueError, r"x must be \[B, 1, 4, 4\]"),
            ({"y": torch.zeros(2, dtype=torch.long)}, ValueError, "y must be 3 labels"),
            ({"y": torch.full((3,), 3)}, ValueError, "y must lie in"),
            ({"y": torch.zeros(3)}, TypeError, "y must be integer labels"),
        ],
    )
    def test_each_bad_input_has_its_sentence(
        self, change: dict[str, object], error: type[Exception], words: str
    ) -> None:
        net = LInfDistNet(SHAPE, 3, width=4, depth=2)
        good = {"x": torch.zeros(3, *SHAPE), "y": torch.zeros(3, dtype=torch.long), "eps": EPS}
        with pytest.raises(error, match=words):
            robust_correct(net, **(good | change))

    def test_numbers_may_be_numpys(self) -> None:
        net = LInfDistNet(SHAPE, 3, width=4, depth=2)
        x, y = torch.rand(3, *SHAPE), torch.zeros(3, dtype=torch.long)
        images = adversarial_images(net, x, y, np.float32(0.25), np.int64(3), seed=np.int32(5))
        assert torch.equal(images, adversarial_images(net, x, y, 0.25, 3, seed=5))

    def test_a_radius_may_be_a_fraction(self) -> None:
        net = LInfDistNet(SHAPE, 3, width=4, depth=2)
        x, y = torch.rand(3, *SHAPE), torch.zeros(3, dtype=torch.long)
        assert torch.equal(adversarial_images(net, x, y, "8/255"), adversarial_images(net, x, y, 8 / 255))


@pytest.mark.parametrize("attack", ATTACKS)
def test_labels_of_any_integer_type_are_welcome(
    net: Net, sample: tuple[Tensor, Tensor], attack: attacks.Attack
) -> None:
    x, y = sample
    wanted = robust_correct(net, x, y, EPS, attack=attack)
    for dtype in (torch.uint8, torch.int16, torch.uint64):
        assert torch.equal(robust_correct(net, x, y.to(dtype), EPS, attack=attack), wanted)


@pytest.mark.parametrize("attack", ATTACKS)
def test_images_of_double_precision_stay_in_the_ball_too(attack: attacks.Attack) -> None:
    torch.manual_seed(0)
    net = LInfDistNet((1, 8, 8), 3, width=16, depth=2).eval().double()
    x = (255 * torch.rand(20, 1, 8, 8)).round().double() / 255
    moved = adversarial_images(net, x, net(x).argmax(1), 0.3, attack=attack)
    pairs = zip(moved.flatten().tolist(), x.flatten().tolist(), strict=True)
    assert all(abs(Fraction(a) - Fraction(b)) <= Fraction(0.3) for a, b in pairs)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", [LInfDistNet, LInfDistNetMLP])
def test_a_net_made_in_inference_mode_is_attacked_like_any_other(
    kind: type[Net], sample: tuple[Tensor, Tensor], attack: attacks.Attack
) -> None:
    nets = []
    for mode in (True, False):
        torch.manual_seed(0)
        with torch.inference_mode(mode):
            nets.append(kind(SHAPE, 3, width=8, depth=2))
    made, usual = (adversarial_images(net, *sample, EPS, 6, attack) for net in nets)
    assert torch.equal(made, usual)
    assert all(parameter.is_inference() for parameter in nets[0].parameters())


def test_reduced_precision_is_refused_as_for_certificates() -> None:
    # else an image could be certified in float32 and "broken" by the rounding of bfloat16
    net, x = LInfDistNet((1, 3, 3), 3, width=4, depth=2), torch.rand(2, 1, 3, 3)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"full precision, .* autocast=True"):
        robust_correct(net, x, torch.tensor([0, 1]), 0.1)
