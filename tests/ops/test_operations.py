"""The public operations: dispatch, autograd, torch.library contracts, torch.compile, and what they refuse."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from lib import ops
from lib.ops import linf_dist_bounds, lp_dist, reference
from lib.ops.order import sort_dist

PS = (1.0, 2.0, 8.0, 37.3, math.inf)


def rand(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=grad)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck_passes_forward_and_backward(p: float, dtype: torch.dtype) -> None:
    x, w = rand(3, 5, dtype=dtype, grad=True), rand(4, 5, dtype=dtype, grad=True)
    torch.library.opcheck(torch.ops.linf_dist_book.lp_dist.default, (x, w, p, math.isinf(p)))
    y, index = torch.ops.linf_dist_book.lp_dist(x.detach(), w.detach(), p, math.isinf(p))
    arguments = (torch.ones_like(y), x.detach(), w.detach(), y, index, p, True, False)
    torch.library.opcheck(torch.ops.linf_dist_book.lp_dist_backward.default, arguments)


def test_opcheck_passes_for_bounds() -> None:
    lower = rand(3, 5)
    torch.library.opcheck(torch.ops.linf_dist_book.linf_dist_bounds.default, (lower, lower + 1, rand(4, 5)))


@pytest.mark.parametrize("p", PS)
def test_gradients_agree_with_finite_differences(p: float) -> None:
    assert torch.autograd.gradcheck(lambda x, w: lp_dist(x, w, p), (rand(3, 5, grad=True), rand(4, 5, grad=True)))


@pytest.mark.parametrize("p", [8.0, math.inf])
def test_float32_runs_the_kernels_and_agrees_with_the_reference(p: float) -> None:
    x, w = rand(7, 33, dtype=torch.float32, grad=True), rand(9, 33, dtype=torch.float32, grad=True)
    lp_dist(x, w, p).square().sum().backward()
    x64, w64 = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    lp_dist(x64, w64, p).square().sum().backward()
    torch.testing.assert_close(x.grad, x64.grad.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(w.grad, w64.grad.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("p", [1e5, 1e9])
def test_a_large_finite_p_keeps_its_gradients(p: float) -> None:
    x, w = rand(7, 33, dtype=torch.float32, grad=True), rand(9, 33, dtype=torch.float32, grad=True)
    got = torch.autograd.grad(lp_dist(x, w, p).sum(), (x, w))
    x64, w64 = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    for a, b in zip(got, torch.autograd.grad(lp_dist(x64, w64, p).sum(), (x64, w64)), strict=True):
        assert b.abs().max() >= 1
        torch.testing.assert_close(a, b.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_kernels_run_in_float32_up_to_a_large_p_and_at_infinity(device: str) -> None:
    with FakeTensorMode():
        x = torch.empty(2, 3, device=device)
    kernels = getattr(ops, {"cpu": "cpu", "cuda": "gpu"}[device])
    for p in (1.0, 2.0**14, math.inf):
        assert ops._sibling(x, p) is kernels
        assert ops._sibling(x.double(), p) is reference
    assert ops._sibling(x, 2.0**14 + 1) is reference


def test_forward_mode_is_refused_rather_than_wrong() -> None:
    x, w = rand(3, 5), rand(4, 5)
    for differentiated in (lambda: torch.func.jvp(lp_dist, (x, w), (x, w)), lambda: torch.func.jacfwd(lp_dist)(x, w)):
        with pytest.raises(NotImplementedError, match="x has a tangent of forward-mode differentiation, expected none"):
            differentiated()
    with pytest.raises(NotImplementedError, match="w has a tangent"):
        torch.func.jvp(lambda w: lp_dist(x, w), (w,), (w,))
    with pytest.raises(NotImplementedError, match="lower has a tangent"):
        torch.func.jvp(lambda lower: linf_dist_bounds(lower, x + 1, w), (x,), (x,))
    one, y = torch.tensor(1.0), lp_dist(x, w)
    assert torch.equal(torch.func.jvp(lambda a: a * lp_dist(x, w), (one,), (one,))[1], y)


def test_second_derivatives_are_refused_in_one_sentence() -> None:
    x, w = rand(3, 5, grad=True), rand(4, 5)
    for distance in (lambda x: lp_dist(x, w, 2.0), lambda x: sort_dist(x, w, [0.5, 0.5])):
        (gradient,) = torch.autograd.grad(distance(x).sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="first derivatives alone, got a gradient of their gradient"):
            gradient.sum().backward()


def test_autocast_takes_half_precision_for_float32() -> None:
    x, w = rand(3, 5, dtype=torch.float32), rand(4, 5, dtype=torch.float32, grad=True)
    half = x.bfloat16().requires_grad_()
    for distance in (lp_dist, lambda x, w: sort_dist(x, w, [0.5, 0.5])):
        with torch.autocast("cpu", torch.bfloat16):
            y = distance(half, w)
        assert torch.equal(y, distance(half.detach().float(), w))
        assert [each.dtype for each in torch.autograd.grad(y.sum(), (half, w))] == [torch.bfloat16, torch.float32]
        with pytest.raises(TypeError, match="must share one floating dtype"):
            distance(half, w)


@pytest.mark.parametrize("p", [8.0, math.inf])
def test_compiled_and_eager_agree_bit_for_bit(p: float) -> None:
    x, w = rand(5, 16, dtype=torch.float32, grad=True), rand(6, 16, dtype=torch.float32, grad=True)

    def loss(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (2 * lp_dist(x, w, p)).sum()

    eager = torch.autograd.grad(loss(x, w), (x, w))
    compiled = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(x, w), (x, w))
    assert all(torch.equal(a, b) for a, b in zip(eager, compiled, strict=True))


def test_only_the_gradient_that_is_asked_for_is_made() -> None:
    x, w = rand(3, 5, grad=True), rand(4, 5)
    lp_dist(x, w).sum().backward()
    assert x.grad is not None
    assert w.grad is None


def test_strided_inputs_give_the_same_answer() -> None:
    x, w = rand(10, 6, dtype=torch.float32), rand(6, 4, dtype=torch.float32)
    assert torch.equal(lp_dist(x[::2], w.T), lp_dist(x[::2].clone(), w.T.contiguous()))


def test_empty_batch_gives_an_empty_answer() -> None:
    assert lp_dist(torch.empty(0, 5), torch.randn(3, 5)).shape == (0, 3)


def test_nan_in_gives_nan_out() -> None:
    x, w = torch.randn(3, 5), torch.randn(4, 5)
    x[1, 2] = math.nan
    for p in PS:
        y = lp_dist(x, w, p)
        assert y[1].isnan().all()
        assert not y[[0, 2]].isnan().any()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), inputs=st.integers(1, 40), outputs=st.integers(1, 20), reach=st.floats(0, 2))
def test_a_layer_at_p_inf_is_1_lipschitz(seed: int, inputs: int, outputs: int, reach: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.randn(3, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    other = x + reach * (2 * torch.rand(3, inputs, generator=generator) - 1)
    moved = (lp_dist(x, w) - lp_dist(other, w)).abs().amax(1)
    assert (moved <= (x - other).abs().amax(1) * (1 + 1e-6) + 1e-6).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), inputs=st.integers(1, 40), outputs=st.integers(1, 20), size=st.floats(0, 1))
def test_no_sample_of_a_box_leaves_its_bounds(seed: int, inputs: int, outputs: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    lower, w = torch.randn(4, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    upper = lower + size * torch.rand(4, inputs, generator=generator)
    least, greatest = linf_dist_bounds(lower, upper, w)
    for _ in range(20):
        y = lp_dist(torch.lerp(lower, upper, torch.rand(4, inputs, generator=generator)).clamp(lower, upper), w)
        assert (least <= y).all()
        assert (y <= greatest).all()


def test_bounds_are_attained() -> None:
    lower, w = rand(6, 8), rand(5, 8)
    upper = lower + torch.rand(6, 8, dtype=torch.float64)
    least, greatest = linf_dist_bounds(lower, upper, w)
    for o in range(5):
        nearest = w[o].expand_as(lower).clamp(lower, upper)
        farthest = torch.where((lower - w[o]).abs() > (upper - w[o]).abs(), lower, upper)
        assert torch.equal(reference.lp_dist(nearest, w[o : o + 1], math.inf)[:, 0], least[:, o])
        assert torch.equal(reference.lp_dist(farthest, w[o : o + 1], math.inf)[:, 0], greatest[:, o])


def test_one_graph_serves_a_schedule_of_exponents() -> None:
    compiled = torch.compile(lambda x, w, p: lp_dist(x, w, p).sum(), backend="aot_eager", fullgraph=True)
    x, w = rand(4, 6), rand(3, 6).requires_grad_()
    for p in (8.0, 9.1, 11.2, 20.0, math.inf):
        (expected,) = torch.autograd.grad(lp_dist(x, w, p).sum(), w)
        (got,) = torch.autograd.grad(compiled(x, w, p), w)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("p", [0.5, -1.0, math.nan])
def test_p_below_one_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="p must be at least 1"):
        lp_dist(rand(2, 3), rand(2, 3), p)


def test_p_that_no_float_holds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"p must be math\.inf or a number that a float holds"):
        lp_dist(rand(2, 3), rand(2, 3), 10**400)


@pytest.mark.parametrize("p", ["8", None, True, [8.0]])
def test_p_that_is_no_number_is_refused(p: Any) -> None:
    with pytest.raises(TypeError, match="p must be a number, got "):
        lp_dist(rand(2, 3), rand(2, 3), p)


@pytest.mark.parametrize("p", [8, np.float32(8), np.int64(8)])
def test_numbers_of_other_kinds_are_exponents(p: Any) -> None:
    x, w = rand(2, 3), rand(2, 3)
    assert torch.equal(lp_dist(x, w, p), lp_dist(x, w, 8.0))


def test_mismatched_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same number of features, at least one, got \[2, 3\] and \[2, 4\]"):
        lp_dist(rand(2, 3), rand(2, 4))
    for x, w in ((rand(3), rand(2, 3)), (rand(2, 3), rand(4, 3, 5)), (rand(2, 0), rand(4, 0))):
        with pytest.raises(ValueError, match="must be matrices with the same number of features, at least one, got"):
            lp_dist(x, w)
    with pytest.raises(ValueError, match="lower and upper must agree"):
        linf_dist_bounds(rand(2, 3), rand(3, 3), rand(2, 3))


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="x must be a tensor, got ndarray"):
        lp_dist(torch.ones(2, 3).numpy(), torch.ones(4, 3), 2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="w must be a tensor, got list"):
        lp_dist(torch.ones(2, 3), [[1.0]], 2.0)  # type: ignore[arg-type]
    with torch.autocast("cpu"), pytest.raises(TypeError, match="w must be a tensor, got list"):
        lp_dist(torch.ones(2, 3), [[1.0]], 2.0)  # type: ignore[arg-type]
    box = {"lower": torch.ones(2, 3), "upper": torch.ones(2, 3), "w": torch.ones(4, 3)}
    for name, value in box.items():
        with pytest.raises(TypeError, match=f"{name} must be a tensor, got ndarray"):
            linf_dist_bounds(**{**box, name: value.numpy()})


def test_mixed_or_integer_dtypes_are_refused() -> None:
    with pytest.raises(TypeError, match="one floating dtype"):
        lp_dist(rand(2, 3), rand(2, 3).float())
    with pytest.raises(TypeError, match="one floating dtype"):
        lp_dist(torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_as_it_is_without_autocast_and_as_float32_with_it(dtype: torch.dtype) -> None:
    x, w = rand(2, 3).to(dtype), rand(4, 3).to(dtype)
    assert lp_dist(x, w).dtype is dtype
    with torch.autocast("cpu"):
        assert torch.equal(lp_dist(x, w), lp_dist(x.float(), w.float()))


def test_tensors_of_two_devices_are_refused() -> None:
    with pytest.raises(TypeError, match=r"and one device, got .* on cpu and .* on meta"):
        lp_dist(rand(2, 3), rand(4, 3).to("meta"))


def test_other_floats_and_layouts_are_refused() -> None:
    eighth = torch.ones(2, 3).to(torch.float8_e4m3fn)
    with pytest.raises(TypeError, match=r"of 16 to 64 bits and one device, got .*float8_e4m3fn"):
        lp_dist(eighth, eighth)
    sparse = torch.ones(2, 3).to_sparse()
    with pytest.raises(TypeError, match=r"x and w must be dense, got torch\.sparse_coo and torch\.strided"):
        lp_dist(sparse, torch.ones(2, 3))
    with pytest.raises(TypeError, match=r"x and w must be dense, got torch\.strided and torch\.sparse_coo"):
        lp_dist(torch.ones(2, 3), sparse)
    with pytest.raises(TypeError, match="lower and w must be dense"):
        linf_dist_bounds(sparse, sparse, torch.ones(2, 3))
