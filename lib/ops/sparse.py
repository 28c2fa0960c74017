"""The p = inf distance over shortlists of weights, float32 on the CPU; which weights may be left out is not its affair.

    y_o = max(floor_o, max_{i in above_o} (x_i - w_oi), max_{i in below_o} (w_oi - x_i)) + plus_o - minus_o

A unit has a list for either side, in the order of how large its terms can become: once all samples of a tile have
reached what the next one can be at most, the rest of the list cannot count. A maximum does not depend on the order of
its terms, and any part of them that holds the largest will do: the result is exact.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.ops.compiled import one_at_a_time, ready


class Shortlists(NamedTuple):
    """The terms of one unit after another, first the x_i - w_oi of its list `above`, then the w_oi - x_i of `below`.

    A list has whole steps of `STEP` terms; its last one fills them. The units are those of a layer, or of several that
    follow each other: then all of the first, all of the second, and so on.

    mean, std: the first layer takes (x - mean) / std of its inputs, [I]. widths: the inputs of the first layer and the
    units of each, [L + 1]. begin, end: the steps of both lists of each unit, [U, 2]. place, weight: of each term,
    where x_i starts in a tile of the kernels, and w_oi. most: of each step, a bound on its terms and on all later ones
    of its list. floor, plus, minus: [U].
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    widths: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    place: NDArray[np.int32]
    weight: NDArray[np.float32]
    most: NDArray[np.float32]
    floor: NDArray[np.float32]
    plus: NDArray[np.float32]
    minus: NDArray[np.float32]

    def of_first(self, layers: int) -> "Shortlists":
        """The lists of the first so many layers."""
        return self._replace(widths=self.widths[: layers + 1])

    def kept(self) -> Tensor:
        """Which weights [O, I] of the first layer any term looks at."""
        step, lanes = _kernels().STEP, _kernels().LANES
        inputs, units = self.widths[:2].tolist()
        mask = torch.zeros(units, inputs, dtype=torch.bool)
        for unit, lists in enumerate(zip(self.begin[:units], self.end[:units], strict=True)):
            for begin, end in zip(*lists, strict=True):
                mask[unit, self.place[step * begin : step * end] // lanes] = True
        return mask


def shortlists(weight: Tensor, above: Tensor, below: Tensor, floor: Tensor, plus: Tensor, minus: Tensor) -> Shortlists:
    """Lists of the weights [O, I] of a layer that can give more than the floor [O], which is at least 0.

    above, below: the most that x_i - w_oi and w_oi - x_i can be, [O, I] each; entries at or below the floor are left
    out. Both must hold for every x the lists are used on, and NaN is none.
    plus, minus: what is added to a distance and what is then subtracted, [O] each.
    """
    k, most = _kernels(), torch.stack([above, below], 1).flatten(0, 1)  # a row for each list
    kept = most > floor.repeat_interleave(2)[:, None]
    row, column = kept.nonzero(as_tuple=True)
    order = most[row, column].argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]
    counts = kept.sum(1)
    steps = -(-counts // k.STEP)
    terms = order[_filled_up(counts, k.STEP * steps)]
    row, column, end = row[terms], column[terms], steps.cumsum(0)
    units, inputs = weight.shape
    return Shortlists(
        np.zeros(inputs, np.float32),
        np.ones(inputs, np.float32),
        np.array([inputs, units]),
        (end - steps).view(-1, 2).numpy(),
        end.view(-1, 2).numpy(),
        (k.LANES * column).int().numpy(),
        weight[row // 2, column].numpy(),
        most[row, column][:: k.STEP].contiguous().numpy(),
        floor.abs().numpy(),  # a floor of -0 would not compare like its bits
        plus.numpy().copy(),
        minus.numpy().copy(),
    )


def _filled_up(counts: Tensor, rooms: Tensor) -> Tensor:
    """The numbers of the items of consecutive groups, each group padded to its room by repeating its last item."""
    slots = torch.arange(int(rooms.sum())) - (rooms.cumsum(0) - rooms).repeat_interleave(rooms)
    begins, lasts = counts.cumsum(0) - counts, counts - 1
    return begins.repeat_interleave(rooms) + torch.minimum(slots, lasts.repeat_interleave(rooms))


def joined(layers: Sequence[Shortlists]) -> Shortlists:
    """The lists of layers that follow each other, each of as many inputs as the one before has units."""
    first = np.cumsum([0, *(len(lists.most) for lists in layers)])
    moved = [each._replace(begin=each.begin + n, end=each.end + n) for each, n in zip(layers, first[:-1], strict=True)]
    whole = Shortlists(*map(np.concatenate, zip(*moved, strict=True)))
    widths = np.array([layers[0].widths[0], *(lists.widths[1] for lists in layers)])
    return whole._replace(mean=layers[0].mean, std=layers[0].std, widths=widths)


def of_pixels(lists: Shortlists, mean: Tensor, std: float) -> Shortlists:
    """The lists for inputs from 0 to 1 of which the first layer takes (x - mean) / std, mean [I]."""
    return lists._replace(mean=mean.numpy().copy(), std=np.full_like(lists.std, std))


def linf_dist(x: Tensor, lists: Shortlists) -> tuple[Tensor, Tensor]:
    """x [B, I] through the layers of the lists -> (outputs of the last, [B, O], and a size, [B]).

    The output of a unit is (distance + plus) - minus, rounded in this order. No value on the way exceeds the size: the
    largest of max_i |v_i|, v being what the first layer takes, and max_o |y_o| + (max_o |plus_o| + max_o |minus_o|) of
    each layer.
    """
    y, sizes, _ = _passed(_kernels().forward, x, lists)
    return y, sizes


def linf_dist_of_pixels(x: Tensor, lists: Shortlists) -> tuple[Tensor, Tensor, bool]:
    """The same, and whether all of x lies in [0, 1]: elsewhere the rest is undefined. Leaves out what cannot count in
    the box that holds a large batch."""
    return _passed(_kernels().forward_of_pixels, x, lists)


def linf_dist_bounds(lower: Tensor, upper: Tensor, lists: Shortlists) -> tuple[Tensor, Tensor]:
    """Bounds [B, O] of the outputs of the last layer over the box lower <= x <= upper, which every layer hands on."""
    least, greatest, _ = _bounded(_kernels().forward_bounds, lower, upper, lists)
    return least, greatest


def linf_dist_bounds_of_pixels(lower: Tensor, upper: Tensor, lists: Shortlists) -> tuple[Tensor, Tensor, bool]:
    """The same, and whether all boxes lie in [0, 1], as for `linf_dist_of_pixels`."""
    return _bounded(_kernels().forward_bounds_of_pixels, lower, upper, lists)


@one_at_a_time
def _passed(forward: Callable[..., Any], x: Tensor, lists: Shortlists) -> tuple[Tensor, Tensor, Any]:
    rows = _rows(x)
    y, sizes = x.new_empty(len(rows), int(lists.widths[-1])), x.new_empty(len(rows))
    returned = forward(rows.numpy(), *lists, y.numpy(), sizes.numpy(), torch.get_num_threads())
    return y[: len(x)], sizes[: len(x)], returned


@one_at_a_time
def _bounded(
    forward: Callable[..., Any], lower: Tensor, upper: Tensor, lists: Shortlists
) -> tuple[Tensor, Tensor, Any]:
    low, high = _rows(lower), _rows(upper)
    least, greatest = (lower.new_empty(len(low), int(lists.widths[-1])) for _ in range(2))
    arrays = low.numpy(), high.numpy(), *lists, least.numpy(), greatest.numpy()
    returned = forward(*arrays, torch.get_num_threads())
    return least[: len(lower)], greatest[: len(lower)], returned


def _rows(x: Tensor) -> Tensor:
    """x [B, I] row by row in memory, its last row repeated up to the lanes of a tile."""
    lanes = _kernels().LANES
    return (x if len(x) >= lanes else x[torch.arange(lanes).clamp(max=len(x) - 1)]).contiguous()


def _kernels() -> ModuleType:
    return ready("sparse_kernels")
