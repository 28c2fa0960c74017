"""Weighted order statistics: kernels against PyTorch, gradients, bounds, contracts, and what they refuse."""

import re
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.ops import order, order_reference
from lib.ops.cpu_shapes import MOST_LARGEST, WIDTH
from lib.ops.order import sort_dist, sort_dist_bounds

SHAPES = [(1, 1, 1), (7, 33, 9), (63, 12, 17), (2, 64, 3), (3, 500, 10), (0, 5, 4), (4, 5, 0)]


def draw(batch: int, features: int, outputs: int, seed: int = 0, count: int = 10) -> tuple[Tensor, Tensor, list[float]]:
    """x [B, I] and w [O, I] in float32, K coefficients of float32, falling with sum 1."""
    generator = torch.Generator().manual_seed(seed)
    c = 0.3 ** torch.arange(min(count, features)).float()
    x, w = (torch.randn(rows, features, generator=generator) for rows in (batch, outputs))
    return x, w, (c / c.sum()).tolist()


def sorted_by_hand(t: Tensor, c: Sequence[float]) -> Tensor:
    """sum_k c_k t_(k) over the last axis, added in the order of k as the operation does."""
    falling = t.sort(-1, descending=True).values[..., : len(c)]
    y = falling[..., 0] * c[0]
    for k in range(1, len(c)):
        y = y + falling[..., k] * c[k]
    return y


def value_and_gradients(x: Tensor, w: Tensor, c: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """y, and the gradients of the sum of y^2 in x and w."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = sort_dist(x, w, c)
    return y.detach(), *torch.autograd.grad(y.square().sum(), (x, w))


class TestValues:
    def test_a_neuron_by_hand(self) -> None:
        x, w = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.0, 1.0, 0.0]])  # distances 1, 3, 0.5
        assert sort_dist(x, w, [0.7, 0.2, 0.1]).item() == pytest.approx(0.7 * 3 + 0.2 * 1 + 0.1 * 0.5)
        assert sort_dist(x, w, [1.0]).item() == 3

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_it_is_the_sorted_sum_bit_for_bit(self, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        x, w, c = draw(*shape)
        x, w = x.to(dtype), w.to(dtype)
        assert torch.equal(sort_dist(x, w, c), sorted_by_hand((x[:, None] - w).abs(), c))

    def test_more_terms_than_the_kernels_keep_are_sorted_by_pytorch(self) -> None:
        assert MOST_LARGEST <= WIDTH
        x, w, c = draw(5, 40, 6, count=25)
        assert torch.equal(sort_dist(x, w, c), sorted_by_hand((x[:, None] - w).abs(), c))

    def test_they_do_not_depend_on_the_size_of_a_tile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, w, c = draw(7, 33, 9)
        x, w = x.double(), w.double()
        whole = *value_and_gradients(x, w, c), *sort_dist_bounds(x - 0.3, x + 0.2, w, c)
        monkeypatch.setattr(order_reference, "_CPU_TILE", 2 * w.numel())
        tiled = *value_and_gradients(x, w, c), *sort_dist_bounds(x - 0.3, x + 0.2, w, c)
        assert all(torch.equal(a, b) for a, b in zip(whole, tiled, strict=True))

    def test_ties_count_as_often_as_they_occur(self) -> None:
        x, w = torch.tensor([[2.0, -2.0, 2.0, 1.0]]), torch.zeros(1, 4)
        assert sort_dist(x, w, [0.5, 0.25, 0.125, 0.125]).item() == 2 * 0.875 + 0.125

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_not_finite_is_not_hidden(self, bad: float) -> None:
        x, w, c = draw(3, 20, 4)
        x[1, 7] = bad
        y = sort_dist(x, w, c)
        assert not y[1].isfinite().any()
        assert y[::2].isfinite().all()


class TestGradients:
    def test_they_agree_with_finite_differences(self) -> None:
        x, w, c = draw(3, 6, 4, count=3)
        leaves = x.double().requires_grad_(), w.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, w: sort_dist(x, w, c), leaves)

    def test_a_neuron_by_hand(self) -> None:
        x = torch.tensor([[1.0, -2.0, 0.5, 0.0]], requires_grad=True)
        w = torch.tensor([[0.0, 1.0, 0.0, 0.0]], requires_grad=True)
        sort_dist(x, w, [0.6, 0.3]).sum().backward()
        assert x.grad is not None and w.grad is not None
        assert x.grad.tolist() == [[pytest.approx(0.3), pytest.approx(-0.6), 0, 0]]
        assert torch.equal(w.grad, -x.grad)

    @pytest.mark.parametrize("shape", [(7, 33, 9), (63, 12, 17), (2, 64, 3), (3, 500, 10)])
    def test_the_kernels_agree_with_pytorch(self, shape: tuple[int, int, int]) -> None:
        x, w, c = draw(*shape)
        kernels, exact = value_and_gradients(x, w, c), value_and_gradients(x.double(), w.double(), c)
        for ours, theirs in zip(kernels, exact, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(7, 33, 9), (63, 12, 17), (2, 64, 3), (3, 500, 10)])
    def test_the_kernels_agree_with_pytorch_in_float32_bit_for_bit(
        self, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inputs = draw(*shape)
        kernels = value_and_gradients(*inputs)
        monkeypatch.setattr(order, "_sibling", lambda x: order_reference)
        assert all(torch.equal(a, b) for a, b in zip(kernels, value_and_gradients(*inputs), strict=True))

    def test_tied_distances_share_their_places_among_them(self) -> None:
        x = torch.tensor([[2.0, -2.0, 2.0, 1.0]], requires_grad=True)
        sort_dist(x, torch.zeros(1, 4), [0.5, 0.25, 0.125, 0.125]).sum().backward()
        assert x.grad is not None
        assert sorted(x.grad.abs()[0].tolist()) == [0.125, 0.125, 0.25, 0.5]
        assert (x.grad.sign() == x.sign()).all()

    def test_of_more_ties_than_coefficients_the_first_inputs_are_taken(self) -> None:
        x = torch.full((2, 200), -3.0)
        x[:, 70::7] = 5  # 5 and -3 lie as far from 1
        x.requires_grad_()
        c = draw(1, 200, 1)[2]
        sort_dist(x, torch.ones(3, 200), c).sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad[:, :10], -3 * torch.tensor(c).expand(2, -1)) and not x.grad[:, 10:].any()

    @pytest.mark.parametrize("bad", [0.0, float("inf")])
    def test_one_gradient_is_the_same_as_of_both(self, bad: float) -> None:
        x, w, c = draw(7, 70, 9)
        x[3, 5] = bad
        wanted = value_and_gradients(x, w, c)[1:]
        for place in range(2):
            inputs = [x.clone(), w.clone()]
            inputs[place].requires_grad_()
            (got,) = torch.autograd.grad(sort_dist(*inputs, c).square().sum(), inputs[place])
            torch.testing.assert_close(got, wanted[place], rtol=0, atol=0, equal_nan=True)
            assert got.isfinite().any() and got.isfinite().all() == (bad == 0)

    def test_distances_of_0_have_no_gradient(self) -> None:
        x = torch.ones(2, 70, requires_grad=True)
        w = torch.ones(3, 70)
        w[:, 66] = 0
        sort_dist(x, w, draw(1, 70, 1)[2]).sum().backward()
        assert x.grad is not None and x.grad.nonzero().tolist() == [[0, 66], [1, 66]]


class TestBounds:
    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 2**31), features=st.integers(1, 40), width=st.floats(0, 2))
    def test_no_point_of_the_box_leaves_them_and_they_are_attained(
        self, seed: int, features: int, width: float
    ) -> None:
        x, w, c = draw(5, features, 6, seed)
        generator = torch.Generator().manual_seed(seed)
        lower, upper = x - width * torch.rand(x.shape, generator=generator), x + width
        least, greatest = sort_dist_bounds(lower, upper, w, c)
        for _ in range(20):
            inside = torch.lerp(lower, upper, torch.rand(x.shape, generator=generator)).clamp(lower, upper)
            y = sort_dist(inside, w, c)
            assert (least <= y).all() and (y <= greatest).all()
        for o in range(len(w)):
            nearest = w[o].clamp(lower, upper)
            farthest = torch.where((lower - w[o]).abs() > (upper - w[o]).abs(), lower, upper)
            assert torch.equal(sort_dist(nearest, w[o : o + 1], c)[:, 0], least[:, o])
            assert torch.equal(sort_dist(farthest, w[o : o + 1], c)[:, 0], greatest[:, o])

    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_kernels_agree_with_pytorch_bit_for_bit(self, shape: tuple[int, int, int]) -> None:
        x, w, c = draw(*shape)
        lower, upper = x - 0.3, x + 0.2
        least, greatest = sort_dist_bounds(lower, upper, w, c)
        from_low, from_high = lower[:, None] - w, upper[:, None] - w
        assert torch.equal(least, sorted_by_hand(torch.maximum(from_low, -from_high).clamp(min=0), c))
        assert torch.equal(greatest, sorted_by_hand(torch.maximum(from_low.abs(), from_high.abs()), c))


class TestContracts:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_opcheck_passes_forward_and_backward(self, dtype: torch.dtype) -> None:
        x, w, c = draw(3, 5, 4, count=3)
        x, w = x.to(dtype), w.to(dtype)
        arguments = (x.clone().requires_grad_(), w.clone().requires_grad_(), c)
        torch.library.opcheck(torch.ops.linf_dist_book.sort_dist.default, (*arguments, True))
        torch.library.opcheck(torch.ops.linf_dist_book.sort_dist.default, (x, w, c, False))
        torch.library.opcheck(torch.ops.linf_dist_book.sort_dist_bounds.default, (x, x + 1, w, c))
        y, places = torch.ops.linf_dist_book.sort_dist(x, w, c, True)
        backward = torch.ops.linf_dist_book.sort_dist_backward.default
        torch.library.opcheck(backward, (torch.ones_like(y), x, w, c, places, True, False))

    def test_compiled_and_eager_agree_bit_for_bit(self) -> None:
        x, w, c = draw(5, 16, 6)
        x, w = x.requires_grad_(), w.requires_grad_()

        def loss(x: Tensor, w: Tensor, c: Sequence[float]) -> Tensor:
            return sort_dist(x, w, c).square().sum()

        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        eager = torch.autograd.grad(loss(x, w, c), (x, w))
        assert all(map(torch.equal, torch.autograd.grad(compiled(x, w, c), (x, w)), eager))
        with pytest.raises(RuntimeError, match="c must hold finite coefficients"):
            compiled(x, w, [-each for each in c])

    def test_results_do_not_depend_on_the_number_of_threads(self, restored_threads: None) -> None:
        x, w, c = draw(63, 100, 33)
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(torch.cat([part.flatten() for part in value_and_gradients(x, w, c)]))
            assert torch.get_num_threads() == threads
        assert torch.equal(*results)

    @pytest.mark.parametrize(
        ("x", "w", "c", "sentence"),
        [
            ((3,), (4, 3), 2, r"x \[B, I\] and w \[O, I\] must be matrices"),
            ((2, 3), (4, 5), 2, r"same number of features, at least one, got \[2, 3\] and"),
            ((2, 3), (4, 3), 4, r"c must hold 1 to 3 coefficients, the number of features, got 4"),
            ((2, 3), (4, 3), 0, r"c must hold 1 to 3 coefficients, .* got 0"),
        ],
    )
    def test_shapes_that_do_not_match_are_refused(
        self, x: tuple[int, ...], w: tuple[int, ...], c: int, sentence: str
    ) -> None:
        with pytest.raises(ValueError, match=sentence):
            sort_dist(torch.zeros(x), torch.zeros(w), [0.0] * c)

    @settings(max_examples=30, deadline=None)
    @given(
        place=st.integers(0, 2),
        wrong=st.floats(max_value=0, exclude_max=True, width=32) | st.sampled_from([float("inf"), float("nan")]),
    )
    def test_coefficients_for_which_no_bound_holds_are_refused(self, place: int, wrong: float) -> None:
        x, w, c = draw(2, 3, 4)
        c[place] = wrong
        for call in (lambda: sort_dist(x, w, c), lambda: sort_dist_bounds(x, x, w, c)):
            with pytest.raises(ValueError, match=re.escape(f"finite coefficients of at least 0, got {wrong}")):
                call()

    def test_forward_mode_is_refused_rather_than_wrong(self) -> None:
        x, w, c = draw(2, 3, 4)
        with pytest.raises(NotImplementedError, match=r"x has a tangent .* distances have gradients alone"):
            torch.func.jvp(lambda x: sort_dist(x, w, c), (x,), (x,))
        with pytest.raises(NotImplementedError, match="w has a tangent"):
            torch.func.jvp(lambda w: sort_dist(x, w, c), (w,), (w,))
        with pytest.raises(NotImplementedError, match="upper has a tangent"):
            torch.func.jvp(lambda v: sort_dist_bounds(x, v, w, c), (x,), (x,))

    def test_mixed_dtypes_and_boxes_of_two_shapes_are_refused(self) -> None:
        x, w, c = draw(2, 3, 4)
        with pytest.raises(TypeError, match="must share one floating dtype of 16 to 64 bits and one device"):
            sort_dist(x.double(), w, c)
        with pytest.raises(TypeError, match="c must be a sequence of numbers, got a tensor"):
            sort_dist(x, w, torch.tensor(c))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"lower and upper must agree in shape, got \[2, 3\] and \[1, 3\]"):
            sort_dist_bounds(x, x[:1], w, c)
