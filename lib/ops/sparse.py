"""The p = inf distance over shortlists of weights, float32 on the CPU; which weights may be left out is not its affair.

    y_o = max(floor_o, max_{i in above_o} (x_i - w_oi), max_{i in below_o} (w_oi - x_i))

A unit has a list for either side, in the order of how large its terms can become: once all samples of a tile have
reached what the next one can be at most, the rest of the list cannot count. A maximum does not depend on the order of
its terms, and any part of them that holds the largest will do: the result is exact.
"""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.ops.compiled import ready

# From so many samples on, shorter lists repay the look at their box.
_MANY = 256


class Shortlists(NamedTuple):
    """The terms of one unit after another, first the x_i - w_oi of its list `above`, then the w_oi - x_i of `below`.

    A list has whole steps of `STEP` terms; its last one fills them.

    begin, end: the steps of both lists of each unit, [O, 2]. place, weight: of each term, place being where x_i starts
    in a tile of the kernels. most: what the terms of each step, and those behind it in its list, are at most.
    floor: [O].
    """

    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    place: NDArray[np.int32]
    weight: NDArray[np.float32]
    most: NDArray[np.float32]
    floor: NDArray[np.float32]

    def kept(self, features: int) -> Tensor:
        """Which weights of [O, I] any term looks at, I being `features`."""
        step, lanes = _kernels().STEP, _kernels().LANES
        mask = torch.zeros(len(self.floor), features, dtype=torch.bool)
        for unit, lists in enumerate(zip(self.begin, self.end, strict=True)):
            for begin, end in zip(*lists, strict=True):
                mask[unit, self.place[step * begin : step * end] // lanes] = True
        return mask


def shortlists(weight: Tensor, above: Tensor, below: Tensor, floor: Tensor) -> Shortlists:
    """Lists of the weights [O, I] that can give more than the floor [O], which is at least 0.

    above, below: the most that x_i - w_oi and w_oi - x_i can be, [O, I] each; entries at or below the floor are left
    out. Both must hold for every x the lists are used on, and NaN is none.
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
    return Shortlists(
        (end - steps).view(-1, 2).numpy(),
        end.view(-1, 2).numpy(),
        (k.LANES * column).int().numpy(),
        weight[row // 2, column].numpy(),
        most[row, column][:: k.STEP].contiguous().numpy(),
        floor.abs().numpy(),  # a floor of -0 would not compare like its bits
    )


def _filled_up(counts: Tensor, rooms: Tensor) -> Tensor:
    """Of runs of so many things each, the numbers of all things, the last of a run repeated until it fills its room."""
    slots = torch.arange(int(rooms.sum())) - (rooms.cumsum(0) - rooms).repeat_interleave(rooms)
    begins, lasts = counts.cumsum(0) - counts, counts - 1
    return begins.repeat_interleave(rooms) + torch.minimum(slots, lasts.repeat_interleave(rooms))


def narrowed(lists: Shortlists, lower: Tensor, upper: Tensor) -> Shortlists:
    """The lists without the terms that stay at or below their floor for every x of a batch of boxes, [B, I] each.

    The order of the terms stays. Small batches keep all of them: a look at every term repays on many samples only.
    """
    if len(lower) < _MANY:
        return lists
    k, shares = _kernels(), torch.get_num_threads()
    box = k.box_of(lower.contiguous().numpy(), upper.contiguous().numpy(), shares)
    end, place = np.empty_like(lists.end), np.empty_like(lists.place)
    weight, most = np.empty_like(lists.weight), np.empty_like(lists.most)
    k.narrow(lists.begin, lists.end, lists.place, lists.weight, lists.floor, box, end, place, weight, most, shares)
    return lists._replace(end=end, place=place, weight=weight, most=most)


def linf_dist(x: Tensor, lists: Shortlists, plus: Tensor, minus: Tensor) -> Tensor:
    """(distance + plus) - minus, rounded in this order: x [B, I], plus and minus [O] -> [B, O]."""
    k = _kernels()
    rows = _rows(x, k.LANES)
    y = x.new_empty(len(rows), len(lists.floor))
    k.forward(rows.numpy(), *_arrays(lists, plus, minus), y.numpy(), torch.get_num_threads())
    return y[: len(x)]


def linf_dist_bounds(
    lower: Tensor, upper: Tensor, lists: Shortlists, plus: Tensor, minus: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds of the same over the box lower <= x <= upper, [B, O] each."""
    k = _kernels()
    low, high = _rows(lower, k.LANES), _rows(upper, k.LANES)
    least, greatest = (lower.new_empty(len(low), len(lists.floor)) for _ in range(2))
    arrays, threads = _arrays(lists, plus, minus), torch.get_num_threads()
    k.forward_bounds(low.numpy(), high.numpy(), *arrays, least.numpy(), greatest.numpy(), threads)
    return least[: len(lower)], greatest[: len(lower)]


def _rows(x: Tensor, lanes: int) -> Tensor:
    """x [B, I] row by row in memory, its last row repeated up to the lanes of a tile."""
    return (
        x.contiguous()
        if len(x) >= lanes
        else x[torch.arange(lanes, device=x.device).clamp(max=len(x) - 1)].contiguous()
    )


def _arrays(lists: Shortlists, plus: Tensor, minus: Tensor) -> tuple[NDArray[Any], ...]:
    return *lists, plus.numpy(), minus.numpy()


def _kernels() -> ModuleType:
    return ready("sparse_kernels")
