import math
import os
import subprocess
import sys

import numba
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.ops import cpu, reference

EMPTY = torch.empty(0, dtype=torch.int32)
SHAPES = [
    (1, 1, 1),
    (3, 63, 10),
    (5, 500, 7),
    (33, 257, 65),
    (130, 70, 600),
    (300, 64, 300),
    (200, 513, 33),
    (0, 8, 4),
]
EXPONENTS = [1, 1.5, 2, 3, 8, 37.3, 64, 1000, math.inf]


def random_case(b: int, i: int, o: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(b * 1000 + i * 10 + o)
    x, w, grad = ((rows, cols) for rows, cols in ((b, i), (o, i), (b, o)))
    return tuple(torch.randn(shape, generator=generator) for shape in (x, w, grad))  # type: ignore[return-value]


def forward(module: object, x: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    return module.lp_dist_argmax(x, w) if math.isinf(p) else (module.lp_dist(x, w, p), EMPTY)  # type: ignore[attr-defined]


def assert_matches_reference(x: Tensor, w: Tensor, grad: Tensor, p: float) -> None:
    """Values and gradients against the reference in float64, within the promised rounding."""
    y, index = forward(cpu, x, w, p)
    exact, _ = forward(reference, x.double(), w.double(), p)
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=0, msg=lambda m: f"y: {m}")
    got = cpu.lp_dist_backward(grad, x, w, y, index, p, True, True)
    wanted = reference.lp_dist_backward(grad.double(), x.double(), w.double(), exact, index, p, True, True)
    for name, a, b in zip(("grad_x", "grad_w"), got, wanted, strict=True):
        assert a.dtype is torch.float32 and a.shape == b.shape
        # Below p = 4 the rounding of the sums themselves is the larger part, at p = inf the only one.
        tolerance = 2.0**-24 if math.isinf(p) else max(p, 4) * 2.0**-22
        largest = b.abs().max().item() if b.numel() else 0
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * largest, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_reference(shape: tuple[int, int, int], p: float) -> None:
    assert_matches_reference(*random_case(*shape), p)


@pytest.mark.parametrize("p", [1, 3, 8, 37.3, math.inf])
# B, I, O: weights packed; straight from memory, in whole blocks or with a part of one at the end
@pytest.mark.parametrize("shape", [(3, 700, 64), (3, 20, 64), (2, 64, 5), (1, 784, 20), (3, 97, 11)])
def test_few_samples_match_the_reference(shape: tuple[int, int, int], p: float) -> None:
    assert_matches_reference(*random_case(*shape), p)


@settings(max_examples=200, deadline=None)
@given(
    p=st.one_of(st.sampled_from([4.0, 8.0, 32.0]), st.floats(1, 20), st.floats(14, 15.5), st.floats(20, 2000)),
    features=st.integers(64, 8192), size=st.floats(1, 2), part=st.floats(0.2, 1.5),
)  # fmt: skip
def test_thousands_of_equal_terms_beside_one_keep_the_promise(
    p: float, features: int, size: float, part: float
) -> None:
    # all are rounded the same way; gradients were off by up to 1.6 times what they promise, at p from 3 to 11
    x, w = torch.zeros(4, features), torch.full((2, features), size)
    x[:, 0] = -part * size * features ** (1 / p)
    assert_matches_reference(x, w, torch.ones(4, 2), p)


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("p", EXPONENTS)
def test_the_least_distance_of_all_is_no_zero(p: float, samples: int) -> None:
    x, w = torch.zeros(samples, 3), torch.zeros(5, 3)
    x[:, 1] = 2.0**-149
    assert (cpu.lp_dist(x, w, p) == 2.0**-149).all()


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, 5.0])
def test_only_a_distance_too_large_for_float32_is_infinite(p: float, samples: int) -> None:
    w = torch.zeros(5, 4096)
    for part in (0.98, 1.02):
        y = cpu.lp_dist(torch.full((samples, 4096), part * 2.0 ** (128 - 12 / p)), w, p)
        assert torch.isinf(y).all() if part > 1 else torch.isfinite(y).all()


def test_a_small_difference_keeps_its_sign_beside_a_large_one_at_p_1() -> None:
    x, w = torch.tensor([[1e30, 2.0**-140, 0.0, -(2.0**-140)]]), torch.zeros(1, 4)
    y = cpu.lp_dist(x, w, 1.0)
    grad_x, grad_w = cpu.lp_dist_backward(torch.ones_like(y), x, w, y, EMPTY, 1.0, True, True)
    assert grad_x.tolist() == [[1, 1, 0, -1]] and torch.equal(grad_w, -grad_x)


@pytest.mark.parametrize("shape", SHAPES)
def test_p_inf_is_exact(shape: tuple[int, int, int]) -> None:
    x, w, _ = random_case(*shape)
    y, index = cpu.lp_dist_argmax(x, w)
    wanted, first = reference.lp_dist_argmax(x, w)
    assert torch.equal(y, wanted) and torch.equal(index, first)
    assert torch.equal(cpu.lp_dist(x, w, math.inf), wanted)


@pytest.mark.parametrize("shape", SHAPES)
def test_bounds_are_exact(shape: tuple[int, int, int]) -> None:
    x, w, _ = random_case(*shape)
    got = cpu.linf_dist_bounds(x - 0.3, x + 0.3, w)
    for a, b in zip(got, reference.linf_dist_bounds(x - 0.3, x + 0.3, w), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("features", [1, 63, 500])
def test_a_tie_goes_to_the_first_index(features: int) -> None:
    x = torch.randint(-2, 3, (9, features), generator=torch.Generator().manual_seed(0)).float()
    w = torch.zeros(20, features)
    w[1] = x[0]
    y, index = cpu.lp_dist_argmax(x, w)
    wanted, first = reference.lp_dist_argmax(x, w)
    assert torch.equal(y, wanted) and torch.equal(index, first)


@pytest.mark.parametrize("p", EXPONENTS)
def test_distance_zero_has_the_gradient_of_the_reference(p: float) -> None:
    x, w, grad = random_case(6, 40, 6)
    w[2] = x[3]
    w[4, :20] = x[5, :20]
    assert_matches_reference(x, w, grad, p)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("p", EXPONENTS)
def test_tiny_and_huge_inputs_keep_their_precision(p: float, scale: float) -> None:
    x, w, grad = random_case(5, 70, 9)
    assert_matches_reference(scale * x, scale * w, grad, p)


@pytest.mark.parametrize("p", [2, 8, 64, 1000])
def test_pairs_of_very_different_size_keep_their_precision(p: float) -> None:
    x, w, _ = random_case(5, 70, 9)
    x[1] *= 1e-20
    w[3] *= 1e-20
    x[4] *= 1e20
    y, exact = cpu.lp_dist(x, w, p), reference.lp_dist(x.double(), w.double(), p)
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("p", [1, 1.3, 2, 3, 8])
def test_many_terms_too_small_to_divide_by_keep_their_precision(p: float, samples: int) -> None:
    x, w = torch.full((samples, 5120), 2.0**-129) * (1 + torch.arange(5120) / 5120), torch.zeros(4, 5120)
    exact = reference.lp_dist(x.double(), w.double(), p)
    assert p > 4 or exact.min() > 2**-126  # the distances themselves are no denormal numbers
    torch.testing.assert_close(cpu.lp_dist(x, w, p).double(), exact, rtol=1e-5, atol=2**-149)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("p", [2, 37.3, math.inf])
def test_inputs_that_are_not_finite_give_what_the_reference_gives(p: float, value: float) -> None:
    x, w, grad = random_case(3, 5, 4)
    x[1, 2] = value
    y, index = forward(cpu, x, w, p)
    wanted, _ = forward(reference, x, w, p)
    assert torch.equal(y.isnan(), wanted.isnan()) and torch.equal(y.isinf(), wanted.isinf())
    got = cpu.lp_dist_backward(grad, x, w, y, index, p, True, True)
    for a, b in zip(got, reference.lp_dist_backward(grad, x, w, wanted, index, p, True, True), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    for a, b in zip(cpu.linf_dist_bounds(x, x, w), reference.linf_dist_bounds(x, x, w), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 70, 9), (3, 33, 1), (4, 5, 17), (70, 100, 33)])
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_the_maximum_carries_nan_infinity_and_overflow_along(shape: tuple[int, int, int], seed: int) -> None:
    x, w, _ = random_case(*shape)
    generator = torch.Generator().manual_seed(seed)
    odd = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, 3.4e38, -3.4e38, 1e-45, -0.0])
    for a in (x, w):
        for _ in range(3):
            at = torch.randint(a.numel(), (1,), generator=generator)
            a.view(-1)[at] = odd[torch.randint(len(odd), (1,), generator=generator)]
    torch.testing.assert_close(
        cpu.lp_dist(x, w, math.inf), reference.lp_dist(x, w, math.inf), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("p", [8, 37.3, math.inf])
@pytest.mark.parametrize(("need_x", "need_w"), [(True, False), (False, True), (False, False)])
def test_a_gradient_that_is_not_needed_is_empty(p: float, need_x: bool, need_w: bool) -> None:
    x, w, grad = random_case(3, 20, 5)
    y, index = forward(cpu, x, w, p)
    both = cpu.lp_dist_backward(grad, x, w, y, index, p, True, True)
    got = cpu.lp_dist_backward(grad, x, w, y, index, p, need_x, need_w)
    for needed, a, b in zip((need_x, need_w), got, both, strict=True):
        assert torch.equal(a, b if needed else torch.empty(0))


@pytest.mark.parametrize("p", [8, 37.3, math.inf])
def test_results_do_not_depend_on_the_number_of_threads(p: float, restored_threads: None) -> None:
    x, w, grad = random_case(37, 300, 150)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y, index = forward(cpu, x, w, p)
        gradients = cpu.lp_dist_backward(grad, x, w, y, index, p, True, True)
        results.append((y, *gradients, *cpu.linf_dist_bounds(x - 1, x + 1, w)))
        assert torch.get_num_threads() == threads
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("p", [3, 8, math.inf])
def test_little_work_gets_one_thread_and_more_gets_all(
    p: float, restored_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a call of microseconds took 8 ms where another process had the second core
    torch.set_num_threads(2)
    set_threads, asked = numba.set_num_threads, list[int]()
    monkeypatch.setattr(numba, "set_num_threads", lambda threads: (asked.append(threads), set_threads(threads)))
    for shape, threads in (((1, 1000, 10), 1), ((8, 100, 10), 1), ((64, 400, 100), 2)):
        x, w, grad = random_case(*shape)
        y, index = forward(cpu, x, w, p)
        assert asked[-1] == threads == numba.get_num_threads()
        asked.clear()
        cpu.lp_dist_backward(grad, x, w, y, index, p, True, True)
        assert asked[0] == threads and torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("p", "features", "ratio"),
    [(1, 5120, 2.0**-28), (1.5, 784, 2.0**-19), (4.5, 5120, 0.0134), (4.69, 5120, 0.138), (9.05, 5120, 0.386)],
)
def test_thousands_of_equal_small_terms_beside_the_largest_all_count(p: float, features: int, ratio: float) -> None:
    # fits of low exponents were too coarse for them, and cutting off each below 2^-28 forgot how many they are
    x = torch.full((5, features), ratio)
    x[:, 0] = 1
    assert_matches_reference(x, torch.zeros(3, features), torch.ones(5, 3), p)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 4, 8, 16, 20, 37.3, 1000, math.inf])
@pytest.mark.parametrize("shape", [(4, 512, 4), (5, 5120, 3), (3000, 32, 16), (16, 32, 3000), (64, 256, 64)])
def test_equal_terms_samples_or_outputs_do_not_add_up_their_roundings(shape: tuple[int, int, int], p: float) -> None:
    # once they were off by up to a hundred times the promise
    samples, features, outputs = shape
    for size, pull in ((0.3, 1.0), (0.946, 0.669), (1.425, 0.521)):
        x, w = torch.full((samples, features), size), torch.zeros(outputs, features)
        assert_matches_reference(x, w, torch.full((samples, outputs), pull), p)


@pytest.mark.parametrize("p", [1, 1.5, 3, 8, 12, 20, 37.3, 1000])
@pytest.mark.parametrize("shape", [(437, 1, 1), (1, 1, 68), (142, 2, 1), (1, 5, 152)])
def test_pulls_that_cancel_are_off_by_what_their_sizes_allow(shape: tuple[int, int, int], p: float) -> None:
    # here an entry may be far smaller than any of the pulls in it
    x, w, grad = random_case(*shape)
    y, exact = cpu.lp_dist(x, w, p), reference.lp_dist(x.double(), w.double(), p)
    got = cpu.lp_dist_backward(grad, x, w, y, EMPTY, p, True, True)
    wanted = reference.lp_dist_backward(grad.double(), x.double(), w.double(), exact, EMPTY, p, True, True)
    ratios = (x.double()[:, None] - w.double()).abs() / exact[:, :, None]
    sizes = grad.double().abs()[:, :, None] * ratios ** (p - 1)
    for a, b, size in zip(got, wanted, (sizes.sum(1), sizes.sum(0)), strict=True):
        assert (a.double() - b).abs().max() <= max(p, 4) * 2.0**-22 * size.max()


@pytest.mark.parametrize("p", [1, 2, 8, 37.3, math.inf])
def test_thousands_of_pulls_on_one_input_keep_their_precision(p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.rand(64, 96, generator=generator), torch.rand(5120, 96, generator=generator)
    assert_matches_reference(x, w, torch.ones(64, 5120), p)


@pytest.mark.parametrize("p", [1, 8, 37.3, math.inf])
def test_pulls_that_overflow_when_added_up_are_infinite_and_not_nan(p: float) -> None:
    # compensation would take infinity from infinity
    x, w, _ = random_case(200, 3, 2)
    x[:], w[:], grad = 0.3, 0, torch.full((200, 2), 2.0**125)
    y, index = forward(cpu, x, w, p)
    _, grad_w = cpu.lp_dist_backward(grad, x, w, y, index, p, True, True)
    _, wanted = reference.lp_dist_backward(grad, x, w, y, index, p, True, True)
    assert wanted.isinf().any() and torch.equal(grad_w, wanted)


@pytest.mark.parametrize("scale", [1e-40, 1e-43, 1e-44])
@pytest.mark.parametrize("p", [1, 1.5, 3, 8, 37.3])
def test_distances_whose_inverse_is_no_float_are_the_reference_s(p: float, scale: float) -> None:
    x, w, grad = random_case(5, 64, 4)
    x, w = scale * x, scale * w
    x[0] = 1
    y = cpu.lp_dist(x, w, p)
    torch.testing.assert_close(y, reference.lp_dist(x, w, p), rtol=1e-5, atol=2**-149)
    got = cpu.lp_dist_backward(grad, x, w, y, EMPTY, p, True, True)
    torch.testing.assert_close(got, reference.lp_dist_backward(grad, x, w, y, EMPTY, p, True, True))


@pytest.mark.parametrize("p", [8, 37.3])
def test_many_samples_of_few_features_need_little_room_beside_their_gradient(p: float) -> None:
    # as patches are: once there was a slab of the gradient for every share of the outputs, even for empty shares
    x, w, grad = random_case(4000, 27, 3)
    y = cpu.lp_dist(x, w, p)
    with torch.profiler.profile(profile_memory=True) as events:
        cpu.lp_dist_backward(grad, x, w, y, EMPTY, p, True, True)
    assert max(e.self_cpu_memory_usage for e in events.events()) <= 2 * 4 * 4000 * 32  # bytes, two slabs


def test_importing_the_module_does_not_import_numba() -> None:
    code = "import sys, lib.ops.cpu; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0
