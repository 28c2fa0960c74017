"""The Triton kernels against the reference in float64: natively where there is a GPU, else interpreted on the CPU."""

import importlib.util
import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.ops import gpu, gpu_launch, gpu_layout, powers, reference

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton: pip install triton"),
    # From NumPy, under the interpreter, where infinity is the right answer.
    pytest.mark.filterwarnings("ignore:overflow encountered in (add|exp2|reduce):RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in (multiply|subtract):RuntimeWarning"),
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 1, 1), (3, 63, 10), (5, 50, 7), (17, 33, 19), (3, 5, 300), (40, 6, 130), (0, 8, 4)]
FINITE = (1.0, 2.0, 3.0, 8.0, 37.3, 1000.0)
NO_INDEX = torch.empty(0, dtype=torch.int32)


@pytest.fixture(autouse=True)
def nothing_is_random(empties_hold_nan: None) -> None:
    torch.manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE)


def assert_gradients_match(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> None:
    """Each gradient within p 2^-22 of its largest entry, 4 2^-22 below p = 4."""
    exact = reference.lp_dist(x.double(), w.double(), p)
    pair = gpu.lp_dist_backward(grad, x, w, y, NO_INDEX, p, True, True)
    wide = reference.lp_dist_backward(grad.double(), x.double(), w.double(), exact, NO_INDEX, p, True, True)
    for name, got, want in zip(("grad_x", "grad_w"), pair, wide, strict=True):
        atol = max(p, 4) * 2**-22 * want.abs().max().item() if want.numel() else 0
        torch.testing.assert_close(got.double(), want, rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("p", FINITE)
def test_finite_p_and_both_gradients_match_the_reference(shape: tuple[int, int, int], p: float) -> None:
    B, O, I = shape
    x, w, grad = rand(B, I), rand(O, I), rand(B, O)
    y = gpu.lp_dist(x, w, p)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), reference.lp_dist(x.double(), w.double(), p), rtol=1e-5, atol=0)
    assert_gradients_match(grad, x, w, y, p)


@pytest.mark.parametrize("shape", SHAPES)
def test_p_inf_its_index_and_both_gradients_match_the_reference(shape: tuple[int, int, int]) -> None:
    B, O, I = shape
    x, w, grad = rand(B, I), rand(O, I), rand(B, O)
    y, index = gpu.lp_dist_argmax(x, w)
    want_y, want_index = reference.lp_dist_argmax(x, w)
    assert torch.equal(y, want_y)
    assert torch.equal(gpu.lp_dist(x, w, math.inf), want_y)
    assert index.dtype == torch.int32
    assert torch.equal(index, want_index)
    got = gpu.lp_dist_backward(grad, x, w, y, index, math.inf, True, True)
    want = reference.lp_dist_backward(grad, x, w, y, index, math.inf, True, True)
    for name, a, b in zip(("grad_x", "grad_w"), got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("size", [1e-38, 1.0, 3e38])
def test_gradients_at_p_inf_are_exact_sums_however_their_terms_are_ordered(size: float) -> None:
    x, w = rand(70, 3), rand(50, 3)
    y, index = gpu.lp_dist_argmax(x, w)
    grad = size * rand(70, 50).clamp(-1, 1) / 70
    got = gpu.lp_dist_backward(grad, x, w, y, index, math.inf, True, True)
    want = reference.lp_dist_backward(grad.double(), x.double(), w.double(), y.double(), index, math.inf, True, True)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2**-24, atol=2**-49 * size)
    again = gpu.lp_dist_backward(grad, x, w, y, index, math.inf, True, True)
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1)])
@pytest.mark.parametrize("size", [1.0, -(2.0**-149), 3e38])
def test_many_equal_pulls_on_one_entry_do_not_overflow(shape: tuple[int, int], size: float) -> None:
    B, O = shape
    x, w = torch.zeros(B, 1, device=DEVICE), torch.ones(O, 1, device=DEVICE)
    y, index = gpu.lp_dist_argmax(x, w)
    grad_x, grad_w = gpu.lp_dist_backward(torch.full_like(y, size / 5000), x, w, y, index, math.inf, True, True)
    wanted = torch.tensor(size / 5000).double() * 5000  # as rounded
    total_x, total_w = (-grad_x, grad_w) if B == 1 else (-grad_x.double().sum()[None], grad_w)
    for total in (total_x, total_w.double().sum()[None]):
        torch.testing.assert_close(total.double().flatten().cpu(), wanted[None], rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(3 * gpu.CHUNK, 64), (64, 3 * gpu.CHUNK)])
@pytest.mark.parametrize("p", [1, 8, 37.3, math.inf])
def test_pulls_that_overflow_when_added_up_are_infinite_and_not_nan(p: float, shape: tuple[int, int]) -> None:
    # compensation would take infinity from infinity
    B, O = shape
    x, w = torch.full((B, 3), 0.3, device=DEVICE), torch.zeros(O, 3, device=DEVICE)
    y, index = gpu.lp_dist_argmax(x, w) if p == math.inf else (gpu.lp_dist(x, w, p), NO_INDEX)
    grad = torch.full_like(y, 2.0**125)
    got = gpu.lp_dist_backward(grad, x, w, y, index, p, True, True)
    for a, b in zip(got, reference.lp_dist_backward(grad, x, w, y, index, p, True, True), strict=True):
        assert b.isinf().any() and torch.equal(a, b)


def test_a_small_pull_is_not_lost_beside_a_large_one() -> None:
    x, w = torch.zeros(1, 3, device=DEVICE), torch.eye(3, device=DEVICE)
    y, index = gpu.lp_dist_argmax(x, w)
    grad = torch.tensor([[1.0, 1e-8, 1e-16]], device=DEVICE)
    grad_x, _ = gpu.lp_dist_backward(grad, x, w, y, index, math.inf, True, True)
    torch.testing.assert_close(-grad_x[:, :2], grad[:, :2], rtol=1e-6, atol=0)
    torch.testing.assert_close(-grad_x[:, 2:], grad[:, 2:], rtol=0.2, atol=0)


def test_a_sample_has_the_gradient_that_it_has_alone_whatever_is_beside_it() -> None:
    x, w, grad = rand(3, 7), rand(5, 7), rand(3, 5)
    y, index = gpu.lp_dist_argmax(x, w)
    grad[1] *= 1e-30
    together, _ = gpu.lp_dist_backward(grad, x, w, y, index, math.inf, True, False)
    for b in range(3):
        one = slice(b, b + 1)
        alone, _ = gpu.lp_dist_backward(grad[one], x[one], w, y[one], index[one], math.inf, True, False)
        assert torch.equal(alone, together[one])
    grad[:, 2] *= 1e-30
    _, together = gpu.lp_dist_backward(grad, x, w, y, index, math.inf, False, True)
    for o in range(5):
        one = slice(o, o + 1)
        _, alone = gpu.lp_dist_backward(grad[:, one], x, w[one], y[:, one], index[:, one], math.inf, False, True)
        assert torch.equal(alone, together[one])


def test_a_gradient_that_is_no_number_is_lost_where_it_pulls_and_nowhere_else() -> None:
    x, w = rand(4, 7), rand(5, 7)
    y, index = gpu.lp_dist_argmax(x, w)
    grad = rand(4, 5)
    grad[2, 3], grad[1, 0] = math.nan, math.inf
    for gradient, rows in zip(
        gpu.lp_dist_backward(grad, x, w, y, index, math.inf, True, True), ([2, 1], [3, 0]), strict=True
    ):
        lost = torch.zeros_like(gradient, dtype=torch.bool)
        lost[rows[0], index[2, 3]] = lost[rows[1], index[1, 0]] = True
        assert torch.equal(gradient.isnan(), lost)


@pytest.mark.parametrize("shape", SHAPES)
def test_bounds_match_the_reference_bit_for_bit(shape: tuple[int, int, int]) -> None:
    B, O, I = shape
    lower, w = rand(B, I), rand(O, I)
    upper = lower + rand(B, I).abs()
    for got, want in zip(
        gpu.linf_dist_bounds(lower, upper, w), reference.linf_dist_bounds(lower, upper, w), strict=True
    ):
        assert torch.equal(got, want)


def test_shapes_of_several_tiles_and_chunks_match_the_reference() -> None:
    x, w, grad = rand(65, 20), rand(66, 20), rand(65, 66)
    assert_gradients_match(grad, x, w, gpu.lp_dist(x, w, 2.0), 2.0)
    y, index = gpu.lp_dist_argmax(x, w)
    want_y, want_index = reference.lp_dist_argmax(x, w)
    assert torch.equal(y, want_y)
    assert torch.equal(index, want_index)


@pytest.mark.parametrize("p", [1.01, 5.0, 17.5, 31.0, 32.0, 33.5, 1000.5, 2.0**14])
def test_an_exponent_off_the_beaten_track_matches_the_reference(p: float) -> None:
    x, w = rand(4, 30), rand(5, 30)
    y = gpu.lp_dist(x, w, p)
    torch.testing.assert_close(y.double(), reference.lp_dist(x.double(), w.double(), p), rtol=1e-5, atol=0)
    assert_gradients_match(rand(4, 5), x, w, y, p)


@pytest.mark.parametrize("p", [1.0, 8.0, 37.3, 1000.0])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_magnitudes_neither_underflow_nor_overflow(size: float, p: float) -> None:
    x, w = size * rand(4, 9), size * rand(5, 9)
    y = gpu.lp_dist(x, w, p)
    torch.testing.assert_close(y.double(), reference.lp_dist(x.double(), w.double(), p), rtol=1e-5, atol=0)
    assert_gradients_match(rand(4, 5), x, w, y, p)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0, 8.0, 37.3])
def test_distances_whose_inverse_is_no_float_have_their_values_and_gradients(p: float) -> None:
    x, w, grad = 1e-40 * rand(6, 64), 1e-40 * rand(4, 64), rand(6, 4)
    x[0], x[1] = 1, x[1].sign() * 2**-149
    w[1] = 0
    y = gpu.lp_dist(x, w, p)
    exact = reference.lp_dist(x.double(), w.double(), p)
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=2**-149)
    got = gpu.lp_dist_backward(grad, x, w, y, NO_INDEX, p, True, True)
    # Of the rounded distances, which have but a few bits here.
    want = reference.lp_dist_backward(grad.double(), x.double(), w.double(), y.double(), NO_INDEX, p, True, True)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=max(p, 4) * 2**-22 * b.abs().max().item())
    x[5, 0] = math.inf
    assert torch.equal(gpu.lp_dist(x, w, p)[:5], y[:5])


@pytest.mark.parametrize("p", FINITE)
def test_no_entry_outlives_the_rescaling_beside_a_far_larger_one(p: float) -> None:
    x, w = torch.tensor([[1e30, 1e-30, 0.0]], device=DEVICE), torch.zeros(1, 3, device=DEVICE)
    y = gpu.lp_dist(x, w, p)
    torch.testing.assert_close(y, torch.full_like(y, 1e30))
    grad_x, grad_w = gpu.lp_dist_backward(torch.ones_like(y), x, w, y, NO_INDEX, p, True, True)
    assert grad_x.tolist() == [[1.0, 1.0 if p == 1 else 0.0, 0.0]]
    assert torch.equal(grad_w, -grad_x)


@pytest.fixture
def found_again(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Which pairs each call of `gpu.lp_dist` finds once more, since their sums left the range."""
    lost: list[Tensor] = []

    def spy(some: Tensor, slices: int) -> Tensor:
        lost.append(some)
        return gpu_layout.tiles_with(some, slices)

    monkeypatch.setattr(gpu, "tiles_with", spy)
    return lost


@pytest.mark.parametrize("p", [2.0, 3.0, 8.0, 16.0, 32.0])
def test_small_distances_beside_large_ones_are_found_again_and_only_they(p: float, found_again: list[Tensor]) -> None:
    x, w = rand(66, 20), rand(65, 20)
    x[:3] *= 2.0**-120
    w[64] = 0
    y = gpu.lp_dist(x, w, p)
    torch.testing.assert_close(y.double(), reference.lp_dist(x.double(), w.double(), p), rtol=1e-5, atol=0)
    rows, columns = found_again[0].nonzero(as_tuple=True)
    assert set(rows.tolist()) == {0, 1, 2} and set(columns.tolist()) == {64}


@pytest.mark.parametrize("shape", SHAPES[:-1])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_distances_of_one_size_need_one_pass(
    shape: tuple[int, int, int], size: float, found_again: list[Tensor]
) -> None:
    B, O, I = shape
    for p in (1.0, 2.0, 3.0, 8.0, 16.0):
        gpu.lp_dist(size * rand(B, I), size * rand(O, I), p)
    gpu.lp_dist(size * rand(64, 300), size * rand(64, 300), 32.0)
    assert len(found_again) == 6 and not any(lost.any() for lost in found_again)


@pytest.mark.parametrize("p", [2.0, 8.0, 16.0, 32.0])
def test_the_largest_sum_of_one_pass_does_not_overflow(p: float, found_again: list[Tensor]) -> None:
    x = torch.full((2, 300), torch.finfo(torch.float32).max / 64, device=DEVICE)
    y = gpu.lp_dist(x, -x, p)
    torch.testing.assert_close(y.double(), reference.lp_dist(x.double(), -x.double(), p), rtol=1e-5, atol=0)
    assert not found_again[0].any()


def test_the_first_of_tied_indices_takes_the_gradient() -> None:
    x, w = torch.randint(-1, 2, (9, 12), device=DEVICE).float(), torch.randint(-1, 2, (11, 12), device=DEVICE).float()
    y, index = gpu.lp_dist_argmax(x, w)
    assert torch.equal(index, reference.lp_dist_argmax(x, w)[1])
    grad = torch.ones_like(y)
    got = gpu.lp_dist_backward(grad, x, w, y, index, math.inf, True, True)
    want = reference.lp_dist_backward(grad, x, w, y, index, math.inf, True, True)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_sample_on_its_weight_has_distance_0_and_sign_plus_1_only_at_p_inf() -> None:
    x = rand(1, 6)
    one = torch.ones(1, 1, device=DEVICE)
    for p in FINITE:
        y = gpu.lp_dist(x, x, p)
        assert y.item() == 0
        for gradient in gpu.lp_dist_backward(one, x, x, y, NO_INDEX, p, True, True):
            assert torch.equal(gradient, torch.zeros_like(x))
    y, index = gpu.lp_dist_argmax(x, x)
    grad_x, grad_w = gpu.lp_dist_backward(one, x, x, y, index, math.inf, True, True)
    assert (y.item(), index.item()) == (0, 0)
    assert grad_x.tolist() == [[1, 0, 0, 0, 0, 0]]
    assert grad_w.tolist() == [[-1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("p", [*FINITE, math.inf])
def test_nan_in_gives_nan_out_and_nowhere_else(p: float) -> None:
    x, w, grad = rand(4, 7), rand(5, 7), rand(4, 5)
    x[1, 2] = x[1, 5] = math.nan
    y, index = gpu.lp_dist_argmax(x, w) if math.isinf(p) else (gpu.lp_dist(x, w, p), NO_INDEX)
    assert torch.equal(y.isnan(), reference.lp_dist(x, w, p).isnan())
    got = gpu.lp_dist_backward(grad, x, w, y, index, p, True, True)
    want_index = reference.lp_dist_argmax(x, w)[1]
    want = reference.lp_dist_backward(grad, x, w, y, want_index, p, True, True)
    assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(got, want, strict=True))


def test_nan_in_the_box_gives_nan_bounds() -> None:
    lower, w = rand(3, 4), rand(2, 4)
    upper = lower + 1
    upper[0, 1] = lower[2, 3] = math.nan
    for bound in gpu.linf_dist_bounds(lower, upper, w):
        assert bound.isnan().tolist() == [[True, True], [False, False], [True, True]]


@pytest.mark.parametrize("p", [*FINITE, math.inf])
def test_an_infinite_input_is_at_infinite_distance(p: float) -> None:
    x = torch.tensor([[0.0, math.inf, 1.0]], device=DEVICE)
    assert gpu.lp_dist(x, torch.zeros_like(x), p).item() == math.inf


@pytest.mark.parametrize("p", [8.0, math.inf])
def test_a_gradient_that_is_not_needed_is_empty(p: float) -> None:
    x, w = rand(3, 4), rand(2, 4)
    y, index = gpu.lp_dist_argmax(x, w)
    both = gpu.lp_dist_backward(y, x, w, y, index, p, True, True)
    only_x = gpu.lp_dist_backward(y, x, w, y, index, p, True, False)
    only_w = gpu.lp_dist_backward(y, x, w, y, index, p, False, True)
    torch.testing.assert_close(only_x[0], both[0])
    assert only_x[1].shape == (0,)
    assert only_w[0].shape == (0,)
    torch.testing.assert_close(only_w[1], both[1])


def test_a_gradient_that_is_not_needed_takes_no_room() -> None:
    x, w, y = rand(3, 4), rand(20, 4), rand(3, 20)
    assert [a.numel() for a in gpu._gradients(x, w, y, y, 8.0, False, True)] == [0, w.numel()]
    assert [a.numel() for a in gpu._gradients(x, w, y, y, 8.0, True, False)] == [x.numel(), 0]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), features=st.integers(1, 12), size=st.floats(0, 2))
def test_no_executed_distance_leaves_the_executed_bounds(seed: int, features: int, size: float) -> None:
    torch.manual_seed(seed)
    lower, w = rand(4, features), rand(3, features)
    upper = lower + size * rand(4, features).abs()
    least, greatest = gpu.linf_dist_bounds(lower, upper, w)
    for inside in (lower, upper, torch.lerp(lower, upper, 0.3).clamp(lower, upper)):
        y = gpu.lp_dist(inside, w, math.inf)
        assert (least <= y).all()
        assert (y <= greatest).all()


def test_gradients_found_piece_by_piece_are_those_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, grad = rand(5, 20), rand(40, 20), rand(5, 40)
    y = gpu.lp_dist(x, w, 8.0)
    at_once = gpu.lp_dist_backward(grad, x, w, y, NO_INDEX, 8.0, True, True)
    monkeypatch.setattr(gpu, "_LARGEST_PARTS", 1)
    monkeypatch.setattr(gpu, "SAMPLES", 2)
    piecewise = gpu.lp_dist_backward(grad, x, w, y, NO_INDEX, 8.0, True, True)
    torch.testing.assert_close(piecewise[0], at_once[0])
    torch.testing.assert_close(piecewise[1], at_once[1])


@pytest.mark.parametrize(("p", "term"), [(1.0, 2.0**-28), (2.0, 2.0**-29), (8.0, 2.0**-29)])
def test_a_thousand_equal_small_terms_beside_the_largest_all_count(p: float, term: float) -> None:
    x, w = torch.full((1, 1024), term ** (1 / p), device=DEVICE), torch.zeros(1, 1024, device=DEVICE)
    x[:, 0] = 1
    y = gpu.lp_dist(x, w, p)
    torch.testing.assert_close(y.double(), reference.lp_dist(x.double(), w.double(), p), rtol=2**-23, atol=0)
    assert_gradients_match(torch.ones_like(y), x, w, y, p)


@pytest.mark.parametrize("p", [2.0, 8.0])
def test_two_thousand_pulls_on_one_input_are_summed_in_parts(p: float) -> None:
    x, w = torch.rand(4, 5, device=DEVICE), torch.rand(2048, 5, device=DEVICE)
    assert_gradients_match(torch.ones(4, 2048, device=DEVICE), x, w, gpu.lp_dist(x, w, p), p)


def test_hundreds_of_equal_pulls_of_samples_lose_nothing() -> None:
    x, w = torch.ones(600, 1, device=DEVICE), torch.zeros(16, 1, device=DEVICE)
    pull = torch.full((600, 16), 0.3, device=DEVICE)
    _, grad_w = gpu._gradients(x, w, pull, torch.ones_like(pull), 2.0, False, True)
    torch.testing.assert_close(grad_w.double(), -pull.double().sum(0)[:, None], rtol=2**-23, atol=0)


@given(exponent=st.floats(14.01, 2.0**14 - 0.5))
def test_terms_below_the_range_of_a_fit_do_not_count(exponent: float) -> None:
    assume(not exponent.is_integer())  # some are squared out
    how = gpu.exponent_of(exponent, exponent)
    *coefficients, least = how["fit"]  # type: ignore[misc]
    squarings = how["squarings"]
    t = np.linspace(least, powers.least_ratio(exponent) - 1, 1000, dtype=np.float32)
    value = np.polyval(coefficients, t) ** 2.0**squarings
    # off by this, eight thousand of them add up to 2^-25 of the largest
    np.testing.assert_allclose(value, (1 + t.astype(float)) ** exponent, rtol=0, atol=2.0**-38)
    assert value[0] < 2.0**-60


@pytest.mark.parametrize("p", [9.7, 15.4, 37.3, 500.5])
def test_a_fitted_power_drops_no_sign_and_invents_no_number(p: float) -> None:
    x, w, grad = rand(3, 9), rand(4, 9), torch.ones(3, 4, device=DEVICE)
    x[1] = w[2]
    x[2, 3] = math.nan
    y = gpu.lp_dist(x, w, p)
    grad_x, grad_w = gpu.lp_dist_backward(grad, x, w, y, NO_INDEX, p, True, True)
    assert y[1, 2] == 0 and y[2].isnan().all() and not y[:2].isnan().any()
    assert grad_x[2, 3].isnan() and grad_w[:, 3].isnan().all() and not grad_x[:2].isnan().any()


@pytest.mark.parametrize("p", [1.0, 2.0, 8.0, 37.3])
def test_inputs_beyond_half_the_largest_float_have_their_gradients(p: float) -> None:
    x = torch.tensor([[3e38, 2e38, 1e38], [2.9e38, -1e38, 0.5e38]], device=DEVICE)
    w = torch.tensor([[2e38, 2.5e38, 0.0], [2.5e38, 0.0, 1e38]], device=DEVICE)
    y = gpu.lp_dist(x, w, p)
    small = y.isfinite() & (y < 3e38)
    assert small.any()
    assert_gradients_match(small.float(), x, w, y.where(small, 3e38), p)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 8.0, 37.3])
def test_an_infinite_row_takes_no_gradient_from_small_ones(p: float) -> None:
    x = torch.tensor([[math.inf], [1e30], [1e-15]], device=DEVICE).expand(3, 4)
    w = torch.zeros(2, 4, device=DEVICE)
    y = gpu.lp_dist(x, w, p)
    grad = torch.ones_like(y)
    got, _ = gpu.lp_dist_backward(grad, x, w, y, NO_INDEX, p, True, False)
    want, _ = reference.lp_dist_backward(grad, x, w, y, NO_INDEX, p, True, False)
    rows = slice(1, 2) if p < 2 else slice(1, 3)  # near p = 1 what is finite has to be small beside infinity
    torch.testing.assert_close(got[rows], want[rows], rtol=1e-5, atol=0)


def test_infinity_less_infinity_has_no_gradient_at_p_1() -> None:
    x, w = torch.tensor([[math.inf, 1.0]], device=DEVICE), torch.tensor([[math.inf, 0.0]], device=DEVICE)
    y = gpu.lp_dist(x, w, 1.0)
    grad_x, grad_w = gpu.lp_dist_backward(torch.ones_like(y), x, w, y, NO_INDEX, 1.0, True, True)
    assert y.isnan().all()
    assert grad_x[0, 0].isnan() and grad_w[0, 0].isnan() and grad_x[0, 1] == 1 and grad_w[0, 1] == -1


@pytest.mark.parametrize(("B", "O"), [(40, 3), (3, 40)])
def test_either_side_may_be_taken_in_turn(B: int, O: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, grad = rand(B, 5), rand(O, 5), rand(B, O)
    y = gpu.lp_dist(x, w, 3.0)
    for by_output in (False, True):
        monkeypatch.setattr(gpu, "_by_output", lambda *_, by_output=by_output: by_output)
        assert_gradients_match(grad, x, w, y, 3.0)


def test_a_single_gradient_is_not_summed_from_parts_where_programs_are_many_enough() -> None:
    def by_output(samples: int, outputs: int, features: int) -> list[bool]:
        return [
            gpu._by_output(samples, outputs, features, *needs) for needs in ((True, True), (True, False), (False, True))
        ]

    assert by_output(512, 5120, 5120) == [True, False, True]
    assert by_output(5120, 512, 5120) == [False, False, True]
    assert by_output(512, 10, 5120) == [False, False, False]
    assert by_output(1, 5120, 3072) == [True, True, True]
    assert by_output(100_000, 64, 27) == [False, False, False]


@pytest.mark.parametrize("p", [1.0, 1.5, 8.0, 37.3])
@pytest.mark.parametrize("size", [1e-3, 1e30])
def test_an_infinite_input_takes_the_gradient_alone(p: float, size: float) -> None:
    x, w, grad = size * rand(3, 7), size * rand(4, 7), rand(3, 4)
    x[1, 2], w[3, 5] = math.inf, -math.inf
    y = gpu.lp_dist(x, w, p)
    assert torch.equal(y.isinf(), reference.lp_dist(x, w, p).isinf())
    assert_gradients_match(grad, x, w, y, p)


@pytest.mark.parametrize("p", FINITE)
@pytest.mark.parametrize("size", [1.0, 2.0**-125])
def test_slices_add_up_to_the_reference(p: float, size: float) -> None:
    x, w = rand(5, 700), rand(3, 700)
    x[:2], w[:2] = size * x[:2], size * w[:2]
    assert gpu_layout.sliced(x, w)[0].shape[1] == 9
    y, exact = gpu.lp_dist(x, w, p), reference.lp_dist(x.double(), w.double(), p)
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=0)


def test_slices_have_the_first_maximum_and_the_bounds_of_the_reference() -> None:
    for values in (rand(8, 700), torch.randint(3, (8, 700), device=DEVICE).float(), rand(8, 1).expand(8, 700)):
        x, w = values[:5].contiguous(), values[5:].contiguous()
        for got, want in zip(gpu.lp_dist_argmax(x, w), reference.lp_dist_argmax(x, w), strict=True):
            assert torch.equal(got, want)
        box = x - 0.1, x + 0.2
        for got, want in zip(gpu.linf_dist_bounds(*box, w), reference.linf_dist_bounds(*box, w), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("p", [8.0, math.inf])
def test_a_nan_in_the_last_slice_reaches_the_whole_distance(p: float) -> None:
    x, w = rand(5, 700), rand(3, 700)
    x[2, 699] = math.nan
    assert torch.equal(
        gpu.lp_dist(x, w, p).isnan(), torch.tensor([0, 0, 1, 0, 0], device=DEVICE).bool()[:, None].expand(5, 3)
    )
    if math.isinf(p):
        y, index = gpu.lp_dist_argmax(x, w)
        assert y[2].isnan().all() and (index[2] == 699).all()


def test_importing_the_module_imports_no_triton() -> None:
    code = "import sys; import lib.ops.gpu; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    gpu_launch._kernels.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="need Triton, which is not installed: run `pip install triton`"):
        gpu.lp_dist(rand(1, 1), rand(1, 1), 2.0)


def test_a_missing_compiler_is_named_where_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    kernels = SimpleNamespace(peaks=None, triton=SimpleNamespace(JITFunction=type(None)))
    monkeypatch.setattr(importlib, "import_module", lambda name: kernels)
    gpu_launch._kernels.cache_clear()
    with pytest.raises(RuntimeError, match="need a C compiler for Triton: install gcc or clang, or name another in CC"):
        gpu.lp_dist(rand(1, 1), rand(1, 1), 2.0)


def _roomy_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 80 * 2**30


@pytest.mark.skipif(not _roomy_gpu(), reason="needs a GPU with 80 GiB of free memory")
def test_more_than_2_to_the_31_pairs_match_the_reference() -> None:
    x, w = rand(2**16, 2), rand(2**15 + 64, 2)
    y, index = gpu.lp_dist_argmax(x, w)
    want_y, want_index = reference.lp_dist_argmax(x[-3:], w)
    assert torch.equal(y[-3:], want_y)
    assert torch.equal(index[-3:], want_index)
    del index
    grad_x, _ = gpu.lp_dist_backward(torch.ones_like(y), x, w, y, NO_INDEX, 2.0, True, False)
    want_x, _ = reference.lp_dist_backward(
        torch.ones_like(want_y), x[-3:].double(), w.double(), want_y.double(), NO_INDEX, 2.0, True, False
    )
    torch.testing.assert_close(grad_x[-3:].double(), want_x, rtol=1e-5, atol=1e-5 * want_x.abs().max().item())


@pytest.mark.parametrize("side", ["x", "w"])
def test_sums_of_hundreds_of_launches_are_as_good_as_those_of_one(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_LARGEST_PARTS", 1)
    monkeypatch.setattr(gpu, "SAMPLES", 16)
    x, w = (torch.ones(1, 1), torch.zeros(5120, 1)) if side == "x" else (torch.ones(5120, 1), torch.zeros(16, 1))
    # one of the sizes that lose most when they are added up 320 times in float32
    pull = torch.full((len(x), len(w)), 1.5901947021484375, device=DEVICE)
    sums = gpu._gradients(x.to(DEVICE), w.to(DEVICE), pull, torch.ones_like(pull), 2.0, side == "x", side == "w")
    got, want = (sums[0], pull.double().sum(1)) if side == "x" else (-sums[1], pull.double().sum(0))
    torch.testing.assert_close(got[:, 0].double(), want, rtol=2**-22, atol=0)
