"""What is judged, and how: the inputs that are refused, the arithmetic, evaluation mode and the box of a radius."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from lib.nets.models import LInfDistNet, LInfDistNetMLP
from lib.robustness import inputs
from lib.robustness.attacks import robust_correct
from lib.robustness.certify import certify
from lib.robustness.inputs import check_arithmetic, check_batch, evaluation_mode, executed_logits, pixel_box

SHAPE = (1, 4, 4)


class Image(Tensor):
    """A tensor that may compute in another way than its values."""


@pytest.fixture(params=[torch.float16, torch.float64])
def default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


class TestBatches:
    net = LInfDistNet(SHAPE, 3, width=4, depth=2)

    @pytest.mark.parametrize(
        ("x", "y", "sentence"),
        [
            (torch.rand(2, 1, 3, 4), [0, 1], r"x must be \[B, 1, 4, 4\], got \[2, 1, 3, 4\]"),
            (torch.rand(2, 16), [0, 1], r"x must be \[B, 1, 4, 4\], got \[2, 16\]"),
            (torch.full((2, *SHAPE), 1.5), [0, 1], r"x must lie in \[0, 1\], got values from 1.5 to 1.5"),
            (torch.full((2, *SHAPE), -0.5), [0, 1], r"x must lie in \[0, 1\], got values from -0.5 to -0.5"),
            (torch.full((2, *SHAPE), math.nan), [0, 1], "x must be finite"),
            (torch.tensor([0.5] * 31 + [math.nan]).view(2, *SHAPE), [0, 1], "x must be finite"),
            (torch.tensor([0.5] * 31 + [-math.inf]).view(2, *SHAPE), [0, 1], "x must be finite"),
            (torch.rand(2, *SHAPE), [0], r"y must be 2 labels \(one per image\), got \[1\]"),
            (torch.rand(2, *SHAPE), [0, 3], r"y must lie in 0..2, got labels from 0 to 3"),
            (torch.rand(2, *SHAPE), [-1, 0], "y must lie in 0..2, got labels from -1 to 0"),
        ],
    )
    def test_bad_batches(self, x: Tensor, y: list[int], sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            check_batch(self.net, x, torch.tensor(y))

    def test_bad_types(self) -> None:
        with pytest.raises(TypeError, match="x must be floating point, pixels"):
            check_batch(self.net, torch.zeros(2, *SHAPE, dtype=torch.uint8), torch.tensor([0, 1]))
        for name, batch in (
            ("x", (torch.rand(2, *SHAPE).as_subclass(Image), torch.tensor([0, 1]))),
            ("y", (torch.rand(2, *SHAPE), torch.tensor([0, 1]).as_subclass(Image))),
        ):
            with pytest.raises(TypeError, match=rf"{name} must be a plain tensor, got a Image: pass {name}\.as_subcl"):
                check_batch(self.net, *batch)
        with pytest.raises(TypeError, match="y must be integer labels"):
            check_batch(self.net, torch.rand(2, *SHAPE), torch.tensor([0.0, 1.0]))
        with pytest.raises(TypeError, match=r"x must be dense, got torch\.sparse_coo"):
            check_batch(self.net, torch.rand(2, *SHAPE).to_sparse(), torch.tensor([0, 1]))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("evaluate", [certify, robust_correct])
    def test_images_of_another_dtype_than_the_nets(self, evaluate: Callable[..., object], dtype: torch.dtype) -> None:
        with pytest.raises(TypeError, match=f"x must have the dtype of the net, torch.float32, got {dtype}"):
            evaluate(self.net, torch.rand(1, *SHAPE).to(dtype), torch.tensor([0]), 0.1)

    def test_what_is_no_tensor_or_no_net(self) -> None:
        x, y = torch.rand(1, *SHAPE), torch.tensor([0])
        for arguments, sentence in (
            ((torch.nn.Linear(16, 3), x, y), "net must be one of LInfDistNet, SortNet, .*, got Linear"),
            ((self.net, x.numpy(), y), "x must be a tensor, got ndarray"),
            ((self.net, x, [0]), "y must be a tensor, got list"),
        ):
            with pytest.raises(TypeError, match=sentence):
                check_batch(*arguments)  # type: ignore[arg-type]

    def test_another_device_than_the_nets(self) -> None:
        x, y = torch.rand(1, *SHAPE), torch.tensor([0])
        for images, labels in ((x.to("meta"), y), (x, y.to("meta"))):
            with pytest.raises(ValueError, match="must be where net is, on cpu, got"):
                check_batch(self.net, images, labels)

    def test_non_finite_weights(self) -> None:
        net = LInfDistNet(SHAPE, 3, width=4, depth=2)
        net.layers[0].weight.data[0, 0] = math.inf
        with pytest.raises(ValueError, match=r"non-finite entry in layers\.0\.weight"):
            check_batch(net, torch.rand(1, *SHAPE), torch.tensor([0]))

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"std": -0.3}, r"std must be between 2\^-100 and 2\^100, got -0.3"),
            ({"std": math.nan}, r"std must be between 2\^-100 and 2\^100, got nan"),
            ({"std": 2e-45}, r"std must be between 2\^-100 and 2\^100, got 2e-45"),
            ({"std": 3e38}, r"std must be between 2\^-100 and 2\^100, got 3e\+38"),
            ({"mean": torch.full((1, 1, 1), math.nan)}, r"mean must be finite"),
        ],
    )
    def test_a_normalisation_that_turns_boxes_inside_out(self, change: dict[str, object], sentence: str) -> None:
        net = LInfDistNet(SHAPE, 3, width=4, depth=2)
        for name, value in change.items():
            setattr(net.normalize, name, value)
        with pytest.raises(ValueError, match=sentence):
            check_batch(net, torch.rand(1, *SHAPE), torch.tensor([0]))


class TestArithmetic:
    def test_reduced_precision(self) -> None:
        torch.set_float32_matmul_precision("medium")
        try:
            with pytest.raises(ValueError, match="full precision"):
                check_arithmetic("cpu")
        finally:
            torch.set_float32_matmul_precision("highest")

    @pytest.mark.parametrize("precision", ["tf32", "bf16"])
    def test_reduced_precision_of_the_backend_that_runs_the_net(self, precision: str) -> None:
        matmul = torch.backends.mkldnn.matmul
        before = matmul.fp32_precision
        matmul.fp32_precision = precision
        try:
            with pytest.raises(ValueError, match=f"full precision, got '{precision}' and autocast=False on cpu"):
                check_arithmetic("cpu")
        finally:
            matmul.fp32_precision = before

    def test_reduced_precision_of_another_backend_is_no_matter(self) -> None:
        before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        try:
            check_arithmetic("cpu")
        finally:
            torch.backends.cuda.matmul.fp32_precision = before

    def test_reduced_precision_where_torch_has_one_setting_for_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.backends, "mkldnn", object())
        check_arithmetic("cpu")
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
        with pytest.raises(ValueError, match="full precision, got 'high'"):
            check_arithmetic("cpu")

    def test_autocast(self) -> None:
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="autocast=True"):
            check_arithmetic("cpu")

    def test_denormals_are_looked_for_in_float32_whatever_the_default(self, default_dtype: None) -> None:
        check_arithmetic("cpu")

    def test_a_thread_that_flushes_is_seen_whatever_the_default(self, default_dtype: None, flushing: None) -> None:
        with pytest.raises(ValueError, match="got a thread that flushes them"):
            check_arithmetic("cpu")


def test_evaluation_mode_restores_after_an_error() -> None:
    net = LInfDistNet(SHAPE, 3, width=4, depth=2)
    net.top.weight.requires_grad_(False)

    def fail_inside() -> None:
        with evaluation_mode(net):
            assert not net.training
            assert not any(p.requires_grad for p in net.parameters())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert net.training
    assert not net.top.weight.requires_grad
    assert net.layers[0].weight.requires_grad


def test_logits_are_those_of_evaluation_mode_in_whatever_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = LInfDistNetMLP((1, 3, 3), 4, width=8, depth=2, hidden=5), torch.rand(50, 1, 3, 3)
    expected = net.eval()(x)
    net.train()
    for chunk in (1000, 7):
        monkeypatch.setattr(inputs, "CHUNK", chunk)
        logits = executed_logits(net, x)
        torch.testing.assert_close(logits, expected)
        assert not logits.requires_grad and net.training
    assert executed_logits(net, x[:0]).shape == (0, 4)


class TestPixelBox:
    @pytest.mark.parametrize("eps", [8 / 255, 0.3, 1 / 3, 0.999, 1e-9, 2.0**-24, 5e-324])
    def test_holds_every_float_within_eps_and_not_much_more(self, eps: float) -> None:
        x = torch.rand(50, *SHAPE)
        x[0], x[1] = 0.0, 1.0
        for radius in (eps, torch.full((50,), eps, dtype=torch.float64)):
            lower, upper = pixel_box(x, radius)
            for value, low, high in zip(*(v.flatten().tolist() for v in (x, lower, upper)), strict=True):
                assert low <= max(0, Fraction(value) - Fraction(eps))
                assert high >= min(1, Fraction(value) + Fraction(eps))
            assert lower.min() >= 0 and upper.max() <= 1
            assert (lower.double() >= x.double() - eps - 2e-7).all()
            assert (upper.double() <= x.double() + eps + 3e-7).all()

    def test_one_radius_per_image(self) -> None:
        lower, upper = pixel_box(torch.full((2, *SHAPE), 0.5), torch.tensor([0.0, 0.25]), clip=False)
        assert (upper - lower).amax((1, 2, 3)).tolist() == pytest.approx([0, 0.5], abs=1e-6)
