"""The Triton kernel of the largest distances against the reference: natively where there is a GPU, else interpreted."""

import importlib.util
import math

import pytest
import torch
from torch import Tensor

from lib.ops import order, order_gpu, order_reference

pytestmark = [
    pytest.mark.usefixtures("empties_hold_nan"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton: pip install triton"),
    # From NumPy, under the interpreter, where infinity is the right answer.
    pytest.mark.filterwarnings("ignore:overflow encountered in subtract:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning"),
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 1, 1), (7, 33, 9), (63, 12, 17), (2, 64, 3), (33, 10, 40), (3, 500, 10), (0, 5, 4), (4, 5, 0)]


def draw(batch: int, features: int, outputs: int, count: int = 10) -> tuple[Tensor, Tensor, list[float], Tensor]:
    """x [B, I], w [O, I], K coefficients and a gradient in y [B, O]."""
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, features), (outputs, features), (min(count, features),), (batch, outputs)
    x, w, c, grad = (torch.randn(*shape, generator=generator).to(DEVICE) for shape in shapes)
    return x, w, c.abs().tolist(), grad


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_places_are_those_of_the_reference(shape: tuple[int, int, int]) -> None:
    x, w, c, _ = draw(*shape)
    values, places = order_gpu.largest_with_places(x, w, len(c))
    wanted, where = order_reference.largest_with_places(x, w, len(c))
    assert torch.equal(values, wanted)
    assert places.dtype == torch.int32 and places.is_contiguous()
    assert torch.equal(places, where)
    assert torch.equal(order_gpu.largest(x, x, w, len(c), least=True), wanted)


@pytest.mark.parametrize("least", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_ends_over_a_box_are_those_of_the_reference(shape: tuple[int, int, int], least: bool) -> None:
    x, w, c, _ = draw(*shape)
    wanted = order_reference.largest(x - 0.3, x + 0.2, w, len(c), least=least)
    assert torch.equal(order_gpu.largest(x - 0.3, x + 0.2, w, len(c), least=least), wanted)


@pytest.mark.parametrize("shape", SHAPES)
def test_both_gradients_match_the_reference_in_float64(shape: tuple[int, int, int]) -> None:
    x, w, c, grad = draw(*shape)
    _, places = order_gpu.largest_with_places(x, w, len(c))
    pair = order_gpu.gradients(grad, x, w, c, places, True, True)
    wide = order_reference.gradients(grad.double(), x.double(), w.double(), c, places, True, True)
    for name, got, want in zip(("grad_x", "grad_w"), pair, wide, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    alone = (
        order_gpu.gradients(grad, x, w, c, places, *needs)[n] for n, needs in enumerate([(True, False), (False, True)])
    )
    assert all(map(torch.equal, alone, pair))


def test_of_equal_distances_the_first_inputs_are_taken() -> None:
    x = torch.full((2, 200), -3.0, device=DEVICE)
    x[:, 70::7] = 5  # 5 and -3 lie as far from 1
    x[1, 150] = 9
    values, places = order_gpu.largest_with_places(x, torch.ones(3, 200, device=DEVICE), 4)
    assert values[:, 0, 0].tolist() == [4, 4, 4, 4] and values[:, 1, 2].tolist() == [8, 4, 4, 4]
    assert places[0, 1].tolist() == [0, 1, 2, 3] and places[1, 1].tolist() == [150, 0, 1, 2]


def test_equal_points_have_their_first_inputs_and_no_gradient() -> None:
    x = torch.ones(2, 20, device=DEVICE)
    values, places = order_gpu.largest_with_places(x, x, 10)
    assert not values.any() and (places == torch.arange(10, device=DEVICE)).all()
    gradients = order_gpu.gradients(torch.ones(2, 2, device=DEVICE), x, x, [1.0] * 10, places, True, True)
    assert not any(each.any() for each in gradients)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_hidden(bad: float) -> None:
    x, w, c, _ = draw(3, 20, 4)
    x[1, 7] = bad
    values, places = order_gpu.largest_with_places(x, w, len(c))
    wanted = order_reference.largest(x, x, w, len(c), least=True)
    assert torch.equal(values[:, ::2], wanted[:, ::2])
    assert not values[0, 1].isfinite().any() and values[:, ::2].isfinite().all()
    assert ((places >= 0) & (places < 20)).all()


def test_an_infinite_gradient_gives_nan() -> None:
    x, w, c, grad = draw(3, 20, 4)
    _, places = order_gpu.largest_with_places(x, w, len(c))
    grad[1, 2] = math.inf
    grad_x, grad_w = order_gpu.gradients(grad, x, w, c, places, True, True)
    assert grad_x[1].isnan().any() and grad_x[::2].isfinite().all()
    assert grad_w[2].isnan().any() and grad_w[[0, 1, 3]].isfinite().all()


def test_more_terms_than_a_thread_keeps_are_those_of_the_reference() -> None:
    x, w, *_ = draw(5, 40, 6)
    assert torch.equal(order_gpu.largest_with_places(x, w, 25)[0], order_reference.largest(x, x, w, 25, least=True))
    assert len(order_gpu.largest(x - 1, x, w, 25, least=False)) == 25


def test_the_operation_runs_on_it_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, c, _ = draw(7, 33, 9)
    wanted = order.sort_dist(x, w, c), *order.sort_dist_bounds(x - 0.1, x + 0.2, w, c)
    monkeypatch.setattr(order, "_sibling", lambda x: order_gpu)
    assert all(map(torch.equal, (order.sort_dist(x, w, c), *order.sort_dist_bounds(x - 0.1, x + 0.2, w, c)), wanted))
    moved = x.requires_grad_(), w.requires_grad_()
    y = order.sort_dist(*moved, c)
    assert torch.equal(y, wanted[0])
    assert all(gradient.any() for gradient in torch.autograd.grad(y.sum(), moved))
