"""Shortlists, what a batch leaves out of them, and the distances and bounds over them against the reference."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lib.ops import reference, sparse
from lib.ops.cpu_shapes import WIDTH
from lib.ops.kernels import sparse as sparse_kernels
from lib.ops.shortlists import LANES, MOST_INPUTS, STEP, Shortlists, joined, of_pixels, shortlists

SHAPES = [(1, 1, 1), (3, 63, 10), (33, 257, 65), (64, 100, 7), (70, 30, 40)]


def random_case(b: int, i: int, o: int) -> tuple[Tensor, Tensor, Shortlists]:
    """Inputs in [-1, 1] and the shortlists of the whole of that box, with the constants of `shifted`."""
    generator = torch.Generator().manual_seed(b * 1000 + i * 10 + o)
    x, w = 2 * torch.rand(b, i, generator=generator) - 1, torch.randn(o, i, generator=generator)
    side = torch.ones(1, i)
    floor, _ = reference.linf_dist_bounds(-side, side, w)
    return x, w, shortlists(w, side - w, w + side, floor[0], *constants(o))


def shifted(distances: Tensor) -> Tensor:
    plus, minus = constants(distances.shape[1])
    return (distances + plus) - minus


def bare(w: Tensor, above: Tensor, below: Tensor, floor: Tensor) -> Shortlists:
    """Shortlists of distances without constants."""
    return shortlists(w, above, below, floor, torch.zeros(len(w)), torch.zeros(len(w)))


def constants(o: int) -> tuple[Tensor, Tensor]:
    return torch.linspace(-1, 1, o), torch.linspace(2, 3, o)


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_those_over_all_weights(shape: tuple[int, int, int]) -> None:
    x, w, lists = random_case(*shape)
    wanted = shifted(reference.lp_dist(x, w, math.inf))
    for like in (x, x.t().contiguous().t()):
        y, _ = sparse.linf_dist(like, lists)
        assert torch.equal(y, wanted) and y.is_contiguous()


@pytest.mark.parametrize("shape", SHAPES)
def test_bounds_are_those_over_all_weights(shape: tuple[int, int, int]) -> None:
    x, w, lists = random_case(*shape)
    lower, upper = (x - 0.3).clamp(min=-1), (x + 0.3).clamp(max=1)
    got = sparse.linf_dist_bounds(lower, upper, lists)
    for a, b in zip(got, reference.linf_dist_bounds(lower, upper, w), strict=True):
        assert torch.equal(a, shifted(b))


Stack = list[tuple[Tensor, Tensor, Tensor]]


def stack_case(samples: int, *widths: int) -> tuple[Tensor, Stack, Shortlists]:
    """Pixels, the weights and constants of layers for pixels less 0.4 over 0.3, and the shortlists of all of them."""
    generator = torch.Generator().manual_seed(samples)
    x = torch.rand(samples, widths[0], generator=generator)
    lower, upper = (torch.full((1, widths[0]), end) for end in (-0.4 / 0.3, 0.6 / 0.3 + 1e-6))
    layers, lists = [], []
    for inputs, units in itertools.pairwise(widths):
        w, plus, minus = (2 * torch.randn(units, n, generator=generator) for n in (inputs, 1, 1))
        floor, most = reference.linf_dist_bounds(lower, upper, w)
        layers.append((w, plus[:, 0], minus[:, 0]))
        lists.append(shortlists(w, upper - w, w - lower, floor[0], *layers[-1][1:]))
        lower, upper = ((end + plus[:, 0]) - minus[:, 0] for end in (floor, most))
    return x, layers, of_pixels(joined(lists), torch.full((widths[0],), 0.4), 0.3)


def passed(v: Tensor, layers: Stack) -> list[Tensor]:
    outputs = [v]
    for w, plus, minus in layers:
        outputs.append((reference.lp_dist(outputs[-1], w, math.inf) + plus) - minus)
    return outputs


STACKS = [(1, 3, 2), (50, 17, 40, 3), (100, 33, 5, 64, 1), (300, 20, 20, 20, 20, 20)]


@pytest.mark.parametrize("sizes", STACKS)
def test_a_batch_passes_layer_by_layer(sizes: tuple[int, ...]) -> None:
    x, layers, lists = stack_case(*sizes)
    for count in range(1, len(layers) + 1):
        y, size = sparse.linf_dist(x, lists.of_first(count))
        outputs = passed((x - 0.4) / 0.3, layers[:count])
        assert torch.equal(y, outputs[-1])
        sizes_each = [outputs[0].abs().amax(1)]
        for output, (_, plus, minus) in zip(outputs[1:], layers, strict=False):
            sizes_each.append(output.abs().amax(1) + (plus.abs().max() + minus.abs().max()))
        assert torch.equal(size, torch.stack(sizes_each).amax(0))


@pytest.mark.parametrize("sizes", STACKS)
def test_a_batch_of_boxes_passes_layer_by_layer(sizes: tuple[int, ...]) -> None:
    x, layers, lists = stack_case(*sizes)
    lower, upper = (x - 0.1).clamp(min=0), (x + 0.1).clamp(max=1)
    for count in range(1, len(layers) + 1):
        got = sparse.linf_dist_bounds(lower, upper, lists.of_first(count))
        box = (lower - 0.4) / 0.3, (upper - 0.4) / 0.3
        for w, plus, minus in layers[:count]:
            box = tuple((end + plus) - minus for end in reference.linf_dist_bounds(*box, w))  # type: ignore[assignment]
        assert all(map(torch.equal, got, box))


def rows(lists: Shortlists) -> list[slice]:
    """The steps of every list: of each unit those above and those below."""
    return [slice(*ends) for ends in zip(lists.begin.flat, lists.end.flat, strict=True)]


def terms(steps: slice) -> slice:
    return slice(STEP * steps.start, STEP * steps.stop)


def test_a_tile_is_as_wide_as_the_kernels_registers() -> None:
    assert LANES == 3 * WIDTH


def test_a_list_leaves_out_what_cannot_exceed_the_floor() -> None:
    weight = torch.tensor([[0.0, 5.0, 1.0, -2.0], [3.0, 0.0, 0.0, 0.0]])
    above = torch.tensor([[1.0, 0.0, 4.0, 3.0], [9.0, 0.0, 0.0, 0.0]])
    below = torch.tensor([[2.0, 2.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    lists = bare(weight, above, below, torch.tensor([2.0, 1.0]))
    assert lists.begin.tolist() == [[0, 1], [2, 3]] and lists.end.tolist() == [[1, 2], [3, 3]]
    # In the order of the most that each can be: 4 above 1.0, 3 above -2.0; the last fills up the step.
    found = np.stack([lists.place // LANES, lists.weight], 1).reshape(3, STEP, 2).tolist()
    assert found == [[[2, 1], *[[3, -2]] * (STEP - 1)], [[1, 5]] * STEP, [[0, 3]] * STEP]
    assert lists.most.tolist() == [4, 2.5, 9]
    assert lists.kept().tolist() == [[False, True, True, True], [True, False, False, False]]


def test_no_term_of_a_step_or_behind_it_can_be_more_than_its_most() -> None:
    _, w, lists = random_case(33, 257, 65)
    sides = torch.stack([1 - w, w + 1], 1).flatten(0, 1).numpy()
    for most, floor, steps in zip(sides, lists.floor.repeat(2), rows(lists), strict=True):
        columns = lists.place[terms(steps)].reshape(-1, STEP) // LANES
        assert np.array_equal(most[columns].max(1), lists.most[steps])
        assert (np.diff(lists.most[steps]) <= 0).all() and (lists.most[steps] > floor).all()


def narrow_case() -> tuple[Tensor, Tensor, Tensor, Shortlists]:
    """As many boxes as are worth a look, in which many inputs do not move and none takes its whole range."""
    x, w, lists = random_case(600, 61, 35)
    x = 0.2 + 0.5 * x
    x[:, ::3] = torch.linspace(-0.9, 0.9, 21)
    return x - 0.1, x, w, lists


def reaches(lists: Shortlists, steps: slice, row: int, lower: Tensor, upper: Tensor) -> np.ndarray:
    """What the terms of a list are at most in a box."""
    columns, weight = lists.place[terms(steps)] // LANES, lists.weight[terms(steps)]
    return weight - lower.numpy()[columns] if row % 2 else upper.numpy()[columns] - weight


def narrowed(lists: Shortlists, lower: Tensor, upper: Tensor) -> Shortlists:
    return sparse_kernels.within_box(lower.numpy(), upper.numpy(), lists, torch.get_num_threads())[0]


def test_narrowed_lists_hold_what_can_count_for_any_sample_in_the_same_order() -> None:
    lower, upper, _, lists = narrow_case()
    narrow = narrowed(lists, lower, upper)
    ends = lower.amin(0), upper.amax(0)
    assert np.array_equal(narrow.begin, lists.begin)
    for row, (whole, left) in enumerate(zip(rows(lists), rows(narrow), strict=True)):
        counts = reaches(lists, whole, row, *ends) > lists.floor[row // 2]
        wanted, found = lists.place[terms(whole)][counts], narrow.place[terms(left)]
        assert np.array_equal(found[: len(wanted)], wanted) and (found[len(wanted) :] == wanted[-1:]).all()
        most = reaches(narrow, left, row, *ends).reshape(-1, STEP).max(1, initial=0)
        assert np.array_equal(narrow.most[left], np.maximum.accumulate(most[::-1])[::-1])
    assert (narrow.end - narrow.begin).sum() < 0.8 * (lists.end - lists.begin).sum()
    assert (narrow.kept() <= lists.kept()).all() and narrow.kept().sum() < lists.kept().sum()


def test_narrowed_lists_do_not_depend_on_the_number_of_threads(restored_threads: None) -> None:
    lower, upper, _, lists = narrow_case()
    torch.set_num_threads(1)
    one = narrowed(lists, lower, upper)
    torch.set_num_threads(2)
    two = narrowed(lists, lower, upper)
    assert np.array_equal(one.end, two.end)
    for steps in rows(one):
        assert np.array_equal(one.most[steps], two.most[steps])
        assert np.array_equal(one.place[terms(steps)], two.place[terms(steps)])
        assert np.array_equal(one.weight[terms(steps)], two.weight[terms(steps)])


def test_narrowed_lists_give_the_same_distances_and_bounds() -> None:
    lower, upper, w, lists = narrow_case()
    narrow = narrowed(lists, upper, upper)
    wanted = shifted(reference.lp_dist(upper, w, math.inf))
    assert torch.equal(sparse.linf_dist(upper, narrow)[0], wanted)
    # all samples are in the box of the batch, and so is any part of them
    assert torch.equal(sparse.linf_dist(upper[:7], narrow)[0], wanted[:7])
    got = sparse.linf_dist_bounds(lower, upper, narrowed(lists, lower, upper))
    for a, b in zip(got, reference.linf_dist_bounds(lower, upper, w), strict=True):
        assert torch.equal(a, shifted(b))


def test_the_first_of_several_layers_is_narrowed_and_the_others_stay() -> None:
    x, layers, lists = stack_case(300, 20, 30, 20, 5)
    x[:, :15] = 0.1
    narrow = narrowed(lists, x, x)
    shorter = narrow.end - narrow.begin < lists.end - lists.begin
    assert shorter[:30].any() and not shorter[30:].any()
    assert narrow.kept().shape == (30, 20) and (narrow.kept() <= lists.kept()).all()
    y, _ = sparse.linf_dist(x, narrow)
    assert torch.equal(y, passed((x - 0.4) / 0.3, layers)[-1])
    assert torch.equal(sparse.linf_dist(x, narrowed(narrow, x, x))[0], y)
    y_of_pixels, size, valid = sparse.linf_dist_of_pixels(x, lists)
    assert valid and torch.equal(y_of_pixels, y) and torch.equal(size, sparse.linf_dist(x, lists)[1])
    *bounds, valid = sparse.linf_dist_bounds_of_pixels(x / 2, x, lists)
    assert valid and all(map(torch.equal, bounds, sparse.linf_dist_bounds(x / 2, x, lists)))


def test_lists_whose_terms_all_stay_below_the_floor_become_empty() -> None:
    _, w, lists = random_case(1, 40, 9)
    middle = torch.zeros(600, 40)
    narrow = narrowed(lists._replace(floor=np.full(9, 3.5, np.float32)), middle, middle)
    away = np.abs(w.numpy()).max(1) > 3.5
    assert np.array_equal((narrow.end > narrow.begin).any(1), away) and not away.all()


def test_few_samples_keep_whole_lists() -> None:
    lower, upper, _, lists = narrow_case()
    few = narrowed(lists, lower[:100], upper[:100])
    assert all(map(np.array_equal, few, lists))


def test_the_box_of_a_batch_does_not_depend_on_the_number_of_shares() -> None:
    x, _, _ = stack_case(300, 20, 4)
    lower, upper = (x - 0.1).clamp(min=0), (x + 0.1).clamp(max=1)
    for samples, shares in ((300, 2), (300, 7), (30, 50)):  # at last more shares than there are samples
        box, valid = sparse_kernels.box_of(lower[:samples].numpy(), upper[:samples].numpy(), shares)
        assert valid and np.array_equal(box, torch.stack([lower[:samples].amin(0), upper[:samples].amax(0)]).numpy())


@pytest.mark.parametrize("value", [-1e-6, 1 + 1e-6, math.nan, math.inf])
@pytest.mark.parametrize("place", [(0, 0), (299, 19), (150, 7)])
def test_a_batch_with_an_invalid_pixel_is_told(place: tuple[int, int], value: float) -> None:
    x, _, lists = stack_case(300, 20, 4)
    assert sparse.linf_dist_of_pixels(x, lists)[2] and sparse.linf_dist_bounds_of_pixels(x, x, lists)[2]
    lower, upper = x.clone(), x.clone()
    lower[place], upper[place] = (value, 1.0) if value < 0 else (0.0, value)
    assert not sparse.linf_dist_bounds_of_pixels(lower, upper, lists)[2]
    x[place] = value
    assert not sparse.linf_dist_of_pixels(x, lists)[2]


@pytest.mark.parametrize("late", [0, 17, 40, 70])
def test_a_tile_stops_once_no_later_term_can_count_for_any_of_its_samples(late: int) -> None:
    # The terms behind the first step give 100, against what is said of them: who sees it has looked.
    weight = torch.cat([torch.full((1, STEP), -3.0), torch.full((1, STEP), -100.0)], 1)
    above = torch.cat([torch.full((1, STEP), 4.0), torch.full((1, STEP), 2.5)], 1)
    lists = bare(weight, above, torch.zeros_like(above), torch.zeros(1))
    x = torch.zeros(150, 2 * STEP)
    assert (sparse.linf_dist(x, lists)[0] == 3).all()
    x[late] = -1  # 2 is less than 2.5: the tiles of this sample must look
    looked = sparse.linf_dist(x, lists)[0][:, 0] > 90
    assert looked[late] and looked.sum() <= 2 * LANES


def test_empty_lists_give_the_floor() -> None:
    nothing = torch.zeros(2, 3)
    lists = shortlists(nothing, nothing, nothing, torch.tensor([1.5, 2.5]), torch.zeros(2), torch.ones(2))
    assert len(lists.place) == len(lists.most) == 0 and not lists.kept().any()
    y, size = sparse.linf_dist(torch.ones(2, 3), lists)
    assert y.tolist() == [[0.5, 1.5]] * 2 and size.tolist() == [2.5, 2.5]


def test_lists_do_not_change_with_what_they_were_made_of() -> None:
    x, w, _ = random_case(3, 63, 10)
    made = w.clone(), 2 - w, 2 + w, torch.zeros(10), *(each.clone() for each in constants(10))
    mean = torch.zeros(63)
    lists = of_pixels(shortlists(*made), mean, 1.0)
    wanted = sparse.linf_dist(x, lists)
    for tensor in (*made, mean):
        tensor.fill_(7)
    assert all(map(torch.equal, sparse.linf_dist(x, lists), wanted))


def test_a_floor_of_minus_0_is_above_all_negative_terms() -> None:
    one = torch.ones(1, 1)
    lists = bare(one, one, 0 * one, torch.tensor([-0.0]))
    y, _ = sparse.linf_dist(0.5 * one, lists)
    assert y.tolist() == [[0.0]] and not y.signbit().any()


def test_long_lists_of_equal_terms_are_exact() -> None:
    w, side = torch.full((5, 300), 0.25), torch.ones(1, 300)
    x = torch.randint(-1, 2, (40, 300), generator=torch.Generator().manual_seed(0)).float()
    lists = bare(w, side - w, w + side, torch.zeros(5))
    assert torch.equal(sparse.linf_dist(x, lists)[0], reference.lp_dist(x, w, math.inf))


def test_results_do_not_depend_on_the_number_of_threads(restored_threads: None) -> None:
    x, _, lists = stack_case(150, 40, 30, 20)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append((*sparse.linf_dist(x, lists), *sparse.linf_dist_bounds(x, x, lists)))
        assert torch.get_num_threads() == threads
    assert all(map(torch.equal, *results))


def test_more_inputs_than_a_place_can_name_are_refused() -> None:
    w = torch.empty(1, MOST_INPUTS + 1, device="meta")
    with pytest.raises(ValueError, match="at most 44739242 inputs to be shortlisted, got 44739243"):
        shortlists(w, w, w, torch.zeros(1), torch.zeros(1), torch.zeros(1))
