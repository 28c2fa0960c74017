"""The p = inf distance over shortlists of weights, float32 on the CPU; which weights may be left out is not its affair.

    y_o = max(floor_o, max_{i in above_o} (x_i - w_oi), max_{i in below_o} (w_oi - x_i))

The terms of a unit stand in the order of how large they can become: once all samples of a tile have reached what the
next one can be at most, the rest cannot count. A maximum does not depend on the order of its terms, and any part of
them that holds the largest will do: the result is exact.
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
    """The terms of one unit after another, w - x_i and x_i - w alike: as signed weight - signed input.

    Signed inputs are x_0 .. x_{I-1}, -x_0 .. -x_{I-1}. A unit has whole steps of `STEP` terms; its last one fills them.

    begin, end: the steps of each unit, [O]. place, weight: of each term, place being where its signed input starts in a
    tile of the kernels. most: what the terms of each step, and those behind it, are at most. floor: [O].
    """

    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    place: NDArray[np.int32]
    weight: NDArray[np.float32]
    most: NDArray[np.float32]
    floor: NDArray[np.float32]

    def kept(self, features: int) -> Tensor:
        """Which weights of [O, I] any term looks at, I being `features`."""
        step, width = _kernels().STEP, _kernels().WIDTH
        mask = torch.zeros(len(self.floor), features, dtype=torch.bool)
        for unit, (begin, end) in enumerate(zip(self.begin, self.end, strict=True)):
            mask[unit, self.place[step * begin : step * end] // width % features] = True
        return mask


def shortlists(weight: Tensor, above: Tensor, below: Tensor, floor: Tensor) -> Shortlists:
    """Lists of the weights [O, I] that can give more than the floor [O], which is at least 0.

    above, below: the most that x_i - w_oi and w_oi - x_i can be, [O, I] each; entries at or below the floor are left
    out. Both must hold for every x the lists are used on, and NaN is none.
    """
    k, most, signed = _kernels(), torch.cat([below, above], 1), torch.cat([weight, -weight], 1)
    kept = most > floor[:, None]
    unit, column = kept.nonzero(as_tuple=True)
    order = most[unit, column].argsort(descending=True, stable=True)
    order = order[unit[order].argsort(stable=True)]
    counts = kept.sum(1)
    steps = -(-counts // k.STEP)
    terms = order[_filled_up(counts, k.STEP * steps)]
    unit, column, end = unit[terms], column[terms], steps.cumsum(0)
    return Shortlists(
        (end - steps).numpy(),
        end.numpy(),
        (k.WIDTH * column).int().numpy(),
        signed[unit, column].numpy(),
        most[unit, column][:: k.STEP].contiguous().numpy(),
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
    shares = torch.get_num_threads()
    least = _kernels().signed_least(lower.contiguous().numpy(), upper.contiguous().numpy(), shares)
    end, place = np.empty_like(lists.end), np.empty_like(lists.place)
    weight, most = np.empty_like(lists.weight), np.empty_like(lists.most)
    _kernels().narrow(
        lists.begin, lists.end, lists.place, lists.weight, lists.floor, least, end, place, weight, most, shares
    )
    return lists._replace(end=end, place=place, weight=weight, most=most)


def linf_dist(x: Tensor, lists: Shortlists, plus: Tensor, minus: Tensor) -> Tensor:
    """(distance + plus) - minus, rounded in this order: x [B, I], plus and minus [O] -> [B, O]."""
    rows = _rows(x)
    y = x.new_empty(len(rows), len(lists.floor))
    _kernels().forward(rows.numpy(), *_arrays(lists, plus, minus), y.numpy(), torch.get_num_threads())
    return y[: len(x)]


def linf_dist_bounds(
    lower: Tensor, upper: Tensor, lists: Shortlists, plus: Tensor, minus: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds of the same over the box lower <= x <= upper, [B, O] each."""
    low, high = _rows(lower), _rows(upper)
    least, greatest = (lower.new_empty(len(low), len(lists.floor)) for _ in range(2))
    _kernels().forward_bounds(
        low.numpy(), high.numpy(), *_arrays(lists, plus, minus), least.numpy(), greatest.numpy(),
        torch.get_num_threads(),
    )  # fmt: skip
    return least[: len(lower)], greatest[: len(lower)]


def _rows(x: Tensor) -> Tensor:
    """x [B, I] row by row in memory, its last row repeated up to the LANES of a tile."""
    lanes = _kernels().LANES
    return x.contiguous() if len(x) >= lanes else x[torch.arange(lanes).clamp(max=len(x) - 1)].contiguous()


def _arrays(lists: Shortlists, plus: Tensor, minus: Tensor) -> tuple[NDArray[Any], ...]:
    return *lists, plus.numpy(), minus.numpy()


def _kernels() -> ModuleType:
    return ready("sparse_kernels")
