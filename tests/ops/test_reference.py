import math

import pytest
import torch
from torch import Tensor

from lib.ops import reference

EMPTY = torch.empty(0, dtype=torch.int32)


def backward(x: Tensor, w: Tensor, p: float, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    y, index = reference.lp_dist_argmax(x, w) if math.isinf(p) else (reference.lp_dist(x, w, p), EMPTY)
    return reference.lp_dist_backward(torch.ones_like(y) if grad is None else grad, x, w, y, index, p, True, True)


def random_pair(b: int, i: int, o: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(b * 1000 + i * 10 + o)
    return (
        torch.randn(b, i, generator=generator, dtype=torch.float64).to(dtype),
        torch.randn(o, i, generator=generator, dtype=torch.float64).to(dtype),
    )


@pytest.mark.parametrize(
    ("p", "y", "grad"),
    [
        (2, 3.201562119, (0.312347524, -0.937042571, 0.156173762)),
        (8, 3.000057375, (4.57186161e-4, -0.999866134, 3.57176688e-6)),
        (math.inf, 3, (0, -1, 0)),
    ],
)
def test_the_worked_example_of_the_relaxation(p: float, y: float, grad: tuple[float, ...]) -> None:
    x, w = torch.tensor([[1, -3, 0.5]], dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    grad_x, grad_w = backward(x, w, p)
    assert reference.lp_dist(x, w, p).item() == pytest.approx(y, rel=1e-9)
    assert grad_x[0].tolist() == pytest.approx(grad, rel=1e-8)
    assert torch.equal(grad_w, -grad_x)


def test_the_worked_example_of_the_neuron() -> None:
    x, w = torch.tensor([[1, -2, 0.5]]), torch.tensor([[0.0, 1, 0]])
    grad_x, grad_w = backward(x, w, math.inf)
    assert reference.lp_dist(x, w, math.inf).item() == 3
    assert grad_x.tolist() == [[0, -1, 0]]
    assert grad_w.tolist() == [[0, 1, 0]]


def test_the_worked_example_of_the_interval_bounds() -> None:
    lower, upper, w = torch.tensor([[0, 0.2, 0.5]]), torch.tensor([[0.4, 0.9, 0.7]]), torch.tensor([[0.1, 1.5, 0.6]])
    least, greatest = reference.linf_dist_bounds(lower, upper, w)
    assert least.item() == pytest.approx(0.6)
    assert greatest.item() == pytest.approx(1.3)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 8, 37.3, 200, math.inf])
def test_values_and_gradients_are_those_of_the_plain_formula(p: float) -> None:
    x, w = (a.requires_grad_() for a in random_pair(4, 9, 6))
    grad = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.linalg.vector_norm(x[:, None] - w, ord=p, dim=-1)
    y.backward(grad)
    got_x, got_w = backward(x.detach(), w.detach(), p, grad)
    torch.testing.assert_close(reference.lp_dist(x.detach(), w.detach(), p), y.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(got_x, x.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(got_w, w.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", [1, 8, 1000, math.inf])
def test_tiles_change_nothing(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = random_pair(7, 13, 11)
    whole = reference.lp_dist(x, w, p), *backward(x, w, p), *reference.linf_dist_bounds(x - 0.1, x + 0.1, w)
    monkeypatch.setattr(reference, "_CPU_TILE", 40)
    tiled = reference.lp_dist(x, w, p), *backward(x, w, p), *reference.linf_dist_bounds(x - 0.1, x + 0.1, w)
    for a, b in zip(whole, tiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_a_tie_goes_to_the_first_index() -> None:
    x, w = torch.tensor([[1.0, -2, 2, -2]]), torch.zeros(1, 4)
    assert reference.lp_dist_argmax(x, w)[1].item() == 1
    assert backward(x, w, math.inf)[0].tolist() == [[0, -1, 0, 0]]


@pytest.mark.parametrize(("p", "first"), [(1, 0.0), (2, 0.0), (1000, 0.0), (math.inf, 1.0)])
def test_the_gradient_at_distance_zero(p: float, first: float) -> None:
    x = torch.tensor([[0.5, -0.0, 3]])
    grad_x, grad_w = backward(x, x.clone(), p)
    assert grad_x.tolist() == [[first, 0, 0]]
    assert grad_w.tolist() == [[-first, 0, 0]]


def test_p_1_has_no_pull_where_coordinates_agree() -> None:
    assert backward(torch.tensor([[1.0, 2, -3]]), torch.tensor([[1.0, 0, 0]]), 1)[0].tolist() == [[0, 1, -1]]


@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
@pytest.mark.parametrize("p", [1, 8, 1000])
def test_no_power_overflows_or_vanishes_in_float32(scale: float, p: float) -> None:
    x, w = (scale * a for a in random_pair(3, 20, 5, torch.float32))
    exact = reference.lp_dist(x.double(), w.double(), p)
    torch.testing.assert_close(reference.lp_dist(x, w, p).double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        backward(x, w, p)[0].double(), backward(x.double(), w.double(), p)[0], rtol=1e-2, atol=p * 2**-20
    )


@pytest.mark.parametrize("p", [1, 8, math.inf])
def test_an_empty_batch_has_empty_results_and_no_weight_gradient(p: float) -> None:
    x, w = torch.empty(0, 8), torch.ones(4, 8)
    grad_x, grad_w = backward(x, w, p)
    assert reference.lp_dist(x, w, p).shape == (0, 4)
    assert grad_x.shape == (0, 8)
    assert torch.equal(grad_w, torch.zeros(4, 8))
    assert [b.shape for b in reference.linf_dist_bounds(x, x, w)] == [(0, 4), (0, 4)]


@pytest.mark.parametrize("p", [1, 8, math.inf])
def test_nan_in_gives_nan_out_for_that_sample_only(p: float) -> None:
    x, w = random_pair(2, 5, 3, torch.float32)
    x[0, 3] = math.nan
    y, (grad_x, _) = reference.lp_dist(x, w, p), backward(x, w, p)
    assert y[0].isnan().all() and y[1].isfinite().all()
    assert grad_x[0].isnan().any() and grad_x[1].isfinite().all()
    assert all(b[0].isnan().all() for b in reference.linf_dist_bounds(x, x, w))


@pytest.mark.parametrize("p", [1, 8, math.inf])
def test_an_infinite_coordinate_makes_the_distance_infinite(p: float) -> None:
    x, w = torch.tensor([[0.0, -math.inf]]), torch.tensor([[1.0, 1.0]])
    assert reference.lp_dist(x, w, p).item() == math.inf
    assert backward(x, w, p)[0][0, 1].item() == -1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("p", [1, 8, math.inf])
def test_half_precision_is_rounded_once(dtype: torch.dtype, p: float) -> None:
    x, w = random_pair(3, 40, 5, dtype)
    y = reference.lp_dist(x, w, p)
    assert torch.equal(y, reference.lp_dist(x.float(), w.float(), p).to(dtype))
    assert [g.dtype for g in backward(x, w, p)] == [dtype, dtype]


def test_a_gradient_that_is_not_needed_is_empty() -> None:
    x, w = random_pair(2, 3, 4)
    y = reference.lp_dist(x, w, 2)
    grad_x, grad_w = reference.lp_dist_backward(torch.ones_like(y), x, w, y, EMPTY, 2, False, True)
    assert grad_x.shape == (0,) and grad_w.shape == w.shape


def test_bounds_contain_and_attain_the_distances_of_the_box() -> None:
    x, w = random_pair(3, 4, 5)
    least, greatest = reference.linf_dist_bounds(x - 0.5, x + 0.5, w)
    nearest = torch.minimum(torch.maximum(w, x[:, None] - 0.5), x[:, None] + 0.5)
    farthest = torch.where((x[:, None] - w) > 0, x[:, None] + 0.5, x[:, None] - 0.5)
    torch.testing.assert_close(least, (nearest - w).abs().amax(-1))
    torch.testing.assert_close(greatest, (farthest - w).abs().amax(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_half_precision_do_not_raise_its_rounding_to_a_power(dtype: torch.dtype) -> None:
    x, w, grad = torch.ones(1, 1000), torch.zeros(1, 1000), torch.ones(1, 1)
    none = torch.empty(0, dtype=torch.int32)
    y = reference.lp_dist(x.to(dtype), w.to(dtype), 2000.0)
    got, _ = reference.lp_dist_backward(grad.to(dtype), x.to(dtype), w.to(dtype), y, none, 2000.0, True, True)
    torch.testing.assert_close(got, torch.full_like(got, 1e-3), rtol=1e-2, atol=0)
