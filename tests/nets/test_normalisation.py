"""The normalisation of pixels, and the mean shift of units."""

import math
import re
import warnings

import pytest
import torch

from lib.nets.box import Box
from lib.nets.normalisation import MeanShift, Normalize


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_normalisation_keeps_an_linf_ball() -> None:
    normalize = Normalize((0.5, 0.25), 0.5)
    x = torch.rand(3, 2, 4, 4)
    torch.testing.assert_close(normalize(x + 0.1) - normalize(x), torch.full_like(x, 0.2))
    assert math.isclose(normalize(torch.full((1, 2, 1, 1), 0.5))[0, 1].item(), 0.5)


def test_one_mean_of_several_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="mean must be finite in float32"):
        Normalize((0.5, math.nan), 0.3)


def test_both_print_what_they_were_built_with() -> None:
    assert repr(Normalize((0.1307, 0.5), 0.3081)) == "Normalize(mean=(0.1307, 0.5), std=0.3081)"
    with torch.device("meta"):
        assert repr(Normalize((0.1307, 0.5), 0.3081)) == "Normalize(mean=(meta), std=0.3081)"
    assert repr(MeanShift(3)) == "MeanShift(features=3, momentum=0.1)"


class TestMeanShift:
    def test_training_subtracts_the_batch_mean_and_follows_it(self) -> None:
        shift, y = MeanShift(3), torch.randn(8, 3) + 5
        torch.testing.assert_close(shift(y), y - y.mean(0))
        torch.testing.assert_close(shift.running_mean, 0.1 * y.mean(0))

    def test_gradients_flow_through_the_mean(self) -> None:
        y = torch.randn(8, 3, requires_grad=True)
        MeanShift(3)(y)[0].sum().backward()
        torch.testing.assert_close(y.grad[1], torch.full((3,), -1 / 8))

    def test_evaluation_subtracts_the_running_mean_and_keeps_it(self) -> None:
        shift = MeanShift(3).eval()
        shift.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
        assert torch.equal(shift(torch.zeros(2, 3)), -torch.tensor([[1.0, 2.0, 3.0]] * 2))
        assert shift.running_mean.tolist() == [1, 2, 3]

    def test_images_are_averaged_over_space(self) -> None:
        y = torch.randn(4, 3, 5, 6)
        torch.testing.assert_close(MeanShift(3)(y), y - y.mean((0, 2, 3))[:, None, None])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_the_mean_of_half_precision_is_finite_where_the_sum_is_not(self, dtype: torch.dtype) -> None:
        shift = MeanShift(2).to(dtype)
        y = torch.tensor([[10.0, -8.0]], dtype=dtype).expand(10_000, 2)  # a sum beyond 65,504
        assert not shift(y).any()
        assert torch.equal(shift.running_mean, torch.tensor([1.0, -0.8], dtype=dtype))

    def test_an_empty_training_batch_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"at least one sample to train on, got a batch of shape \[0, 3\]"):
            MeanShift(3)(torch.empty(0, 3))

    def test_one_sample_in_training_is_warned_of(self) -> None:
        shift, sample = MeanShift(3), torch.randn(1, 3)
        with pytest.warns(UserWarning, match=r"makes one sample 0 everywhere, got a batch of one: call eval\(\)"):
            assert not shift(sample).any()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # torch has warnings of its own for Python 3.13.0
            shift(torch.randn(2, 3))
            shift(torch.randn(1, 3, 2, 2))
            torch.compile(shift, backend="aot_eager", fullgraph=True)(sample)
            shift.eval()(sample)

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize(("features", "y"), [(4, torch.rand(2, 5)), (4, torch.rand(4)), (1, torch.rand(2, 5))])
    def test_another_shape_is_refused(self, features: int, y: torch.Tensor, training: bool) -> None:
        shift = MeanShift(features).train(training)
        sentence = re.escape(f"y must be [B, {features}, ...], got {list(y.shape)}")
        with pytest.raises(ValueError, match=sentence):
            shift(y)
        with pytest.raises(ValueError, match=sentence):
            shift.eval().bounds(Box(y, y))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_batches_of_any_dtype_are_shifted_and_followed_in_the_dtype_of_the_running_mean(
        self, dtype: torch.dtype
    ) -> None:
        shift, y = MeanShift(3), torch.randn(8, 3).to(dtype)
        assert torch.equal(shift(y), y - y.mean(0))
        torch.testing.assert_close(shift.running_mean, 0.1 * y.mean(0).float())
