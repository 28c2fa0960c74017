import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.ops import reference, sparse, sparse_kernels

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


def rows(lists: sparse.Shortlists) -> list[slice]:
    """The steps of every list: of each unit those above and those below."""
    return [slice(*ends) for ends in zip(lists.begin.flat, lists.end.flat, strict=True)]


def terms(steps: slice) -> slice:
    return slice(sparse_kernels.STEP * steps.start, sparse_kernels.STEP * steps.stop)


def test_a_list_leaves_out_what_cannot_exceed_the_floor() -> None:
    weight = torch.tensor([[0.0, 5.0, 1.0, -2.0], [3.0, 0.0, 0.0, 0.0]])
    above = torch.tensor([[1.0, 0.0, 4.0, 3.0], [9.0, 0.0, 0.0, 0.0]])
    below = torch.tensor([[2.0, 2.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    lists = sparse.shortlists(weight, above, below, torch.tensor([2.0, 1.0]))
    assert lists.begin.tolist() == [[0, 1], [2, 3]] and lists.end.tolist() == [[1, 2], [3, 3]]
    # In the order of the most that each can be: 4 above 1.0, 3 above -2.0; the last fills up the step.
    step = sparse_kernels.STEP
    found = np.stack([lists.place // sparse_kernels.LANES, lists.weight], 1).reshape(3, step, 2).tolist()
    assert found == [[[2, 1], *[[3, -2]] * (step - 1)], [[1, 5]] * step, [[0, 3]] * step]
    assert lists.most.tolist() == [4, 2.5, 9]
    assert lists.kept(4).tolist() == [[False, True, True, True], [True, False, False, False]]


def test_no_term_of_a_step_or_behind_it_can_be_more_than_its_most() -> None:
    _, w, lists = random_case(33, 257, 65)
    sides = torch.stack([1 - w, w + 1], 1).flatten(0, 1).numpy()
    for most, floor, steps in zip(sides, lists.floor.repeat(2), rows(lists), strict=True):
        columns = lists.place[terms(steps)].reshape(-1, sparse_kernels.STEP) // sparse_kernels.LANES
        assert np.array_equal(most[columns].max(1), lists.most[steps])
        assert (np.diff(lists.most[steps]) <= 0).all() and (lists.most[steps] > floor).all()


def narrow_case() -> tuple[Tensor, Tensor, Tensor, sparse.Shortlists]:
    """As many boxes as are worth a look, in which many inputs do not move and none takes its whole range."""
    x, w, lists = random_case(600, 61, 35)
    x = 0.2 + 0.5 * x
    x[:, ::3] = torch.linspace(-0.9, 0.9, 21)
    return x - 0.1, x, w, lists


def reaches(lists: sparse.Shortlists, steps: slice, row: int, lower: Tensor, upper: Tensor) -> np.ndarray:
    """What the terms of a list are at most in a box."""
    columns, weight = lists.place[terms(steps)] // sparse_kernels.LANES, lists.weight[terms(steps)]
    return weight - lower.numpy()[columns] if row % 2 else upper.numpy()[columns] - weight


def test_narrowed_lists_hold_what_can_count_for_any_sample_in_the_same_order() -> None:
    lower, upper, _, lists = narrow_case()
    narrow = sparse.narrowed(lists, lower, upper)
    ends = lower.amin(0), upper.amax(0)
    assert np.array_equal(narrow.begin, lists.begin)
    for row, (whole, left) in enumerate(zip(rows(lists), rows(narrow), strict=True)):
        counts = reaches(lists, whole, row, *ends) > lists.floor[row // 2]
        wanted, found = lists.place[terms(whole)][counts], narrow.place[terms(left)]
        assert np.array_equal(found[: len(wanted)], wanted) and (found[len(wanted) :] == wanted[-1:]).all()
        most = reaches(narrow, left, row, *ends).reshape(-1, sparse_kernels.STEP).max(1, initial=0)
        assert np.array_equal(narrow.most[left], np.maximum.accumulate(most[::-1])[::-1])
    assert (narrow.end - narrow.begin).sum() < 0.8 * (lists.end - lists.begin).sum()
    assert (narrow.kept(61) <= lists.kept(61)).all() and narrow.kept(61).sum() < lists.kept(61).sum()


def test_narrowed_lists_do_not_depend_on_the_number_of_threads(restored_threads: None) -> None:
    lower, upper, _, lists = narrow_case()
    torch.set_num_threads(1)
    one = sparse.narrowed(lists, lower, upper)
    torch.set_num_threads(2)
    two = sparse.narrowed(lists, lower, upper)
    # more shares than there are units, of a box whose ends lie in single samples
    box = sparse_kernels.box_of(lower.numpy(), upper.numpy(), 50)
    assert np.array_equal(box, torch.stack([lower.amin(0), upper.amax(0)]).numpy())
    assert np.array_equal(one.end, two.end)
    for steps in rows(one):
        assert np.array_equal(one.most[steps], two.most[steps])
        assert np.array_equal(one.place[terms(steps)], two.place[terms(steps)])
        assert np.array_equal(one.weight[terms(steps)], two.weight[terms(steps)])


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
    assert np.array_equal((narrow.end > narrow.begin).any(1), away) and not away.all()


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
