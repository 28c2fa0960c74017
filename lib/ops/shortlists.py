"""Which weights a p = inf neuron looks at: shortlists of its terms; which may be left out is the caller's affair.

    y_o = max(floor_o, max_{i in above_o} (x_i - w_oi), max_{i in below_o} (w_oi - x_i)) + plus_o - minus_o

A unit has a list for either side, in the order of how large its terms can become: once all samples of a tile have
reached what the next one can be at most, the rest of the list cannot count. A maximum does not depend on the order of
its terms, and any part of them that holds the largest will do: the result is exact.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Samples of a tile of the kernels, and terms between two looks at whether any later one can count.
LANES, STEP = 48, 8
MOST_INPUTS = 2**31 // LANES  # of which every place in a tile is an int32


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
        inputs, units = self.widths[:2].tolist()
        mask = torch.zeros(units, inputs, dtype=torch.bool, device="cpu")
        for unit, lists in enumerate(zip(self.begin[:units], self.end[:units], strict=True)):
            for begin, end in zip(*lists, strict=True):
                mask[unit, self.place[STEP * begin : STEP * end] // LANES] = True
        return mask


def shortlists(weight: Tensor, above: Tensor, below: Tensor, floor: Tensor, plus: Tensor, minus: Tensor) -> Shortlists:
    """Lists of the weights [O, I] of a layer that can give more than the floor [O], which is at least 0.

    above, below: the most that x_i - w_oi and w_oi - x_i can be, [O, I] each; entries at or below the floor are left
    out. Both must hold for every x the lists are used on, and NaN is none.
    plus, minus: what is added to a distance and what is then subtracted, [O] each.
    Raises ValueError for more than `MOST_INPUTS` inputs.
    """
    if weight.shape[1] > MOST_INPUTS:
        raise ValueError(f"weight must have at most {MOST_INPUTS} inputs to be shortlisted, got {weight.shape[1]}")
    most = torch.stack([above, below], 1).flatten(0, 1)  # a row for each list
    kept = most > floor.repeat_interleave(2)[:, None]
    row, column = kept.nonzero(as_tuple=True)
    order = most[row, column].argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]
    counts = kept.sum(1)
    steps = -(-counts // STEP)
    terms = order[_filled_up(counts, STEP * steps)]
    row, column, end = row[terms], column[terms], steps.cumsum(0)
    units, inputs = weight.shape
    return Shortlists(
        np.zeros(inputs, np.float32),
        np.ones(inputs, np.float32),
        np.array([inputs, units]),
        (end - steps).view(-1, 2).numpy(),
        end.view(-1, 2).numpy(),
        (LANES * column).int().numpy(),
        weight[row // 2, column].numpy(),
        most[row, column][::STEP].contiguous().numpy(),
        floor.abs().numpy(),  # a floor of -0 would not compare like its bits
        plus.numpy().copy(),
        minus.numpy().copy(),
    )


def _filled_up(counts: Tensor, rooms: Tensor) -> Tensor:
    """The numbers of the items of consecutive groups, each group padded to its room by repeating its last item."""
    slots = torch.arange(int(rooms.sum()), device=rooms.device) - (rooms.cumsum(0) - rooms).repeat_interleave(rooms)
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
