import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.ops import reference, simd, sparse, sparse_kernels

SHAPES = [(1, 1, 1), (3, 63, 10), (33, 257, 65), (64, 100, 7), (70, 30, 40)]


def random_case(b: int, i: int, o: int) -> tuple[Tensor, Tensor, sparse.Shortlists]:
    """Inputs in [-1, 1] and the shortlists of the whole of that box."""
    generator = torch.Generator().manual_seed(b * 1000 + i * 10 + o)
    x, w = 2 * torch.rand(b, i, generator=generator) - 1, torch.randn(o, i, generator=generator)
    side = torch.ones(1, i)
    floor, _ = reference.linf_dist_bounds(-side, side, w)
    return x, w, sparse.shortlists(w, side - w, w + side, floor[0])


def constants(o: int) -> tuple[Tensor, Tensor]:
    return torch.linspace(-1, 1, o), torch.linspace(2, 3, o)


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_those_over_all_weights(shape: tuple[int, int, int]) -> None:
    x, w, lists = random_case(*shape)
    plus, minus = constants(len(w))
    wanted = (reference.lp_dist(x, w, math.inf) + plus) - minus
    assert torch.equal(sparse.linf_dist(x, lists, plus, minus), wanted)
    assert torch.equal(sparse.linf_dist(x.t().contiguous().t(), lists, plus, minus), wanted)
    assert sparse.linf_dist(x, lists, plus, minus).is_contiguous()


@pytest.mark.parametrize("shape", SHAPES)
def test_bounds_are_those_over_all_weights(shape: tuple[int, int, int]) -> None:
    x, w, lists = random_case(*shape)
    plus, minus = constants(len(w))
    lower, upper = (x - 0.3).clamp(min=-1), (x + 0.3).clamp(max=1)
    got = sparse.linf_dist_bounds(lower, upper, lists, plus, minus)
    for a, b in zip(got, reference.linf_dist_bounds(lower, upper, w), strict=True):
        assert torch.equal(a, (b + plus) - minus)


def test_a_list_leaves_out_what_cannot_exceed_the_floor() -> None:
    weight = torch.tensor([[0.0, 5.0, 1.0, -2.0], [3.0, 0.0, 0.0, 0.0]])
    above = torch.tensor([[1.0, 0.0, 4.0, 3.0], [9.0, 0.0, 0.0, 0.0]])
    below = torch.tensor([[2.0, 2.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    lists = sparse.shortlists(weight, above, below, torch.tensor([2.0, 1.0]))
    assert lists.begin.tolist() == [0, 1] and lists.end.tolist() == [1, 2]
    # In the order of the most that each can be: 1 above 1.0, 3 above -2.0, 1 below 5.0; the last fills up the step.
    first, second = (np.stack([lists.place // simd.WIDTH, lists.weight], 1).reshape(2, sparse_kernels.STEP, 2)).tolist()
    assert first == [[6, -1], [7, 2], *[[1, 5]] * (sparse_kernels.STEP - 2)]
    assert second == [[4, -3]] * sparse_kernels.STEP
    assert lists.most.tolist() == [4, 9]
    assert lists.kept(4).tolist() == [[False, True, True, True], [True, False, False, False]]


def test_no_term_of_a_step_or_behind_it_can_be_more_than_its_most() -> None:
    _, w, lists = random_case(33, 257, 65)
    side = torch.cat([w + 1, 1 - w], 1).numpy()
    for o in range(len(w)):
        steps = slice(lists.begin[o], lists.end[o])
        terms = lists.place.reshape(-1, sparse_kernels.STEP)[steps] // simd.WIDTH
        assert np.array_equal(side[o][terms].max(1), lists.most[steps])
        assert (np.diff(lists.most[steps]) <= 0).all() and (lists.most[steps] > lists.floor[o]).all()


def narrow_case() -> tuple[Tensor, Tensor, Tensor, sparse.Shortlists]:
    """As many boxes as are worth a look, in which many inputs do not move and none takes its whole range."""
    x, w, lists = random_case(600, 61, 35)
    x = 0.2 + 0.5 * x
    x[:, ::3] = torch.linspace(-0.9, 0.9, 21)
    return x - 0.1, x, w, lists


def test_narrowed_lists_hold_what_can_count_for_any_sample_in_the_same_order() -> None:
    lower, upper, _, lists = narrow_case()
    step = sparse_kernels.STEP
    narrow = sparse.narrowed(lists, lower, upper)
    least = torch.cat([lower.amin(0), -upper.amax(0)]).numpy()
    for o in range(len(lists.floor)):
        all_terms = slice(step * lists.begin[o], step * lists.end[o])
        place, weight = lists.place[all_terms], lists.weight[all_terms]
        counts = weight - least[place // simd.WIDTH] > lists.floor[o]
        left = slice(step * narrow.begin[o], step * narrow.end[o])
        wanted = place[counts]
        assert np.array_equal(narrow.place[left][: len(wanted)], wanted)
        assert (narrow.place[left][len(wanted) :] == wanted[-1:]).all()
        most = (narrow.weight[left] - least[narrow.place[left] // simd.WIDTH]).reshape(-1, step).max(1, initial=0)
        running = np.maximum.accumulate(most[::-1])[::-1]
        assert np.array_equal(narrow.most[narrow.begin[o] : narrow.end[o]], running)
    assert (narrow.end - narrow.begin).sum() < 0.8 * (lists.end - lists.begin).sum()
    assert (narrow.kept(61) <= lists.kept(61)).all() and narrow.kept(61).sum() < lists.kept(61).sum()


def test_narrowed_lists_do_not_depend_on_the_number_of_threads(restored_threads: None) -> None:
    lower, upper, _, lists = narrow_case()
    torch.set_num_threads(1)
    one = sparse.narrowed(lists, lower, upper)
    torch.set_num_threads(2)
    two = sparse.narrowed(lists, lower, upper)
    # more shares than there are units, of a box whose ends lie in single samples
    least = sparse_kernels.signed_least(lower.numpy(), upper.numpy(), 50)
    assert np.array_equal(least, torch.cat([lower.amin(0), -upper.amax(0)]).numpy())
    for o in range(len(lists.floor)):
        steps = slice(one.begin[o], one.end[o])
        terms = slice(sparse_kernels.STEP * one.begin[o], sparse_kernels.STEP * one.end[o])
        assert one.end[o] == two.end[o] and np.array_equal(one.most[steps], two.most[steps])
        assert np.array_equal(one.place[terms], two.place[terms])
        assert np.array_equal(one.weight[terms], two.weight[terms])


def test_narrowed_lists_give_the_same_distances_and_bounds() -> None:
    lower, upper, w, lists = narrow_case()
    plus, minus = constants(len(w))
    narrow = sparse.narrowed(lists, upper, upper)
    wanted = (reference.lp_dist(upper, w, math.inf) + plus) - minus
    assert torch.equal(sparse.linf_dist(upper, narrow, plus, minus), wanted)
    # all samples are in the box of the batch, and so is any part of them
    assert torch.equal(sparse.linf_dist(upper[:7], narrow, plus, minus), wanted[:7])
    got = sparse.linf_dist_bounds(lower, upper, sparse.narrowed(lists, lower, upper), plus, minus)
    for a, b in zip(got, reference.linf_dist_bounds(lower, upper, w), strict=True):
        assert torch.equal(a, (b + plus) - minus)


def test_lists_whose_terms_all_stay_below_the_floor_become_empty() -> None:
    _, w, lists = random_case(1, 40, 9)
    middle = torch.zeros(600, 40)
    high = lists._replace(floor=np.full(9, 3.5, np.float32))
    narrow = sparse.narrowed(high, middle, middle)
    away = np.abs(w.numpy()).max(1) > 3.5
    assert np.array_equal(narrow.end > narrow.begin, away) and not away.all()


def test_few_samples_keep_whole_lists() -> None:
    lower, upper, _, lists = narrow_case()
    assert sparse.narrowed(lists, lower[:100], upper[:100]) is lists


@pytest.mark.parametrize("late", [0, 17, 40])
def test_a_tile_stops_once_no_later_term_can_count_for_any_of_its_samples(late: int) -> None:
    step = sparse_kernels.STEP
    # The terms behind the first step give 100, against what is said of them: who sees it has looked.
    weight = torch.cat([torch.full((1, step), -3.0), torch.full((1, step), -100.0)], 1)
    above = torch.cat([torch.full((1, step), 4.0), torch.full((1, step), 2.5)], 1)
    lists = sparse.shortlists(weight, above, torch.zeros_like(above), torch.zeros(1))
    x, none = torch.zeros(70, 2 * step), torch.zeros(1)
    assert (sparse.linf_dist(x, lists, none, none) == 3).all()
    x[late] = -1  # 2 is less than 2.5: the tiles of this sample must look
    looked = sparse.linf_dist(x, lists, none, none)[:, 0] > 90
    assert looked[late] and looked.sum() <= 2 * sparse_kernels.LANES


def test_empty_lists_give_the_floor() -> None:
    nothing = torch.zeros(2, 3)
    lists = sparse.shortlists(nothing, nothing, nothing, torch.tensor([1.5, 2.5]))
    assert len(lists.place) == len(lists.most) == 0 and not lists.kept(3).any()
    y = sparse.linf_dist(torch.ones(2, 3), lists, torch.zeros(2), torch.ones(2))
    assert y.tolist() == [[0.5, 1.5]] * 2


def test_a_floor_of_minus_0_is_above_all_negative_terms() -> None:
    one = torch.ones(1, 1)
    lists = sparse.shortlists(one, one, 0 * one, torch.tensor([-0.0]))
    y = sparse.linf_dist(0.5 * one, lists, torch.zeros(1), torch.zeros(1))
    assert y.tolist() == [[0.0]] and not y.signbit().any()


def test_long_lists_of_equal_terms_are_exact() -> None:
    w, side = torch.full((5, 300), 0.25), torch.ones(1, 300)
    x = torch.randint(-1, 2, (40, 300), generator=torch.Generator().manual_seed(0)).float()
    lists = sparse.shortlists(w, side - w, w + side, torch.zeros(5))
    none = torch.zeros(5)
    assert torch.equal(sparse.linf_dist(x, lists, none, none), reference.lp_dist(x, w, math.inf))


def test_results_do_not_depend_on_the_number_of_threads(restored_threads: None) -> None:
    x, w, lists = random_case(150, 40, 30)
    plus, minus = constants(len(w))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(sparse.linf_dist(x, lists, plus, minus))
        assert torch.get_num_threads() == threads
    assert torch.equal(*results)
