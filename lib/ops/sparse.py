"""The p = inf distance over shortlists of weights, float32 on the CPU; which weights may be left out is not its affair.

    y_o = max(floor_o, max_{i in above_o} (x_i - w_oi), max_{i in below_o} (w_oi - x_i))

A list is sorted by the most that its entries can give and cut into chunks, so that a kernel stops at the first chunk
that can no longer raise any of the maxima it holds.
"""

from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.ops.compiled import ready


class Shortlists(NamedTuple):
    """Lists above_0, below_0, above_1, ... one after another, in chunks; the last chunk of a list repeats an entry.

    first: list n has the chunks first[n] to first[n + 1], [2 O + 1]. column, weight: of each entry, [chunks * CHUNK].
    reach: the most that an entry of the chunk, or of a later one in its list, can give, [chunks]. floor: [O].
    """

    first: NDArray[np.int64]
    column: NDArray[np.int32]
    weight: NDArray[np.float32]
    reach: NDArray[np.float32]
    floor: NDArray[np.float32]

    def unit(self) -> Tensor:
        """The unit that each entry belongs to, [chunks * CHUNK]."""
        entries = len(self.column) // len(self.reach) if len(self.reach) else 0
        return torch.arange(2 * len(self.floor)).repeat_interleave(torch.from_numpy(np.diff(self.first)) * entries) // 2


def shortlists(weight: Tensor, above: Tensor, below: Tensor, floor: Tensor) -> Shortlists:
    """Lists of the weights [O, I] that can give more than the floor [O].

    above, below: the most that x_i - w_oi and w_oi - x_i can be, [O, I] each; entries at or below the floor are left
    out, the others must hold for every x the lists are used on.
    """
    chunk = _kernels().CHUNK
    reach = torch.stack([above, below], 1).flatten(0, 1)  # [2 O, I]
    counts = (reach > floor.repeat_interleave(2)[:, None]).sum(1)
    padded = (counts + chunk - 1) // chunk * chunk
    first = torch.cat([counts.new_zeros(1), padded.cumsum(0)])
    order = reach.argsort(dim=1, descending=True, stable=True)
    row = torch.arange(len(reach)).repeat_interleave(padded)
    place = torch.arange(len(row)) - first[row]
    index = order[row, place.minimum(counts[row] - 1)]
    return Shortlists(
        (first // chunk).numpy(),
        index.int().numpy(),
        weight[row // 2, index].numpy(),
        reach[row, index][::chunk].contiguous().numpy(),
        floor.contiguous().numpy(),
    )


def linf_dist(x: Tensor, lists: Shortlists, plus: Tensor, minus: Tensor) -> Tensor:
    """(distance + plus) - minus, rounded in this order: x [B, I], plus and minus [O] -> [B, O].

    The result is stored sample by sample for each unit, the order in which the next layer reads it fastest.
    """
    k = _kernels()
    padded = _padded(x, k.LANES)
    y = x.new_empty(len(lists.floor), len(padded))
    k.forward(padded.numpy(), *lists, plus.numpy(), minus.numpy(), y.numpy(), torch.get_num_threads())
    return y.t()[: len(x)]


def linf_dist_bounds(
    lower: Tensor, upper: Tensor, lists: Shortlists, plus: Tensor, minus: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds of the same over the box lower <= x <= upper, [B, O] each."""
    k = _kernels()
    low, high = _padded(lower, k.LANES), _padded(upper, k.LANES)
    least, greatest = (lower.new_empty(len(lists.floor), len(low)) for _ in range(2))
    arrays = plus.numpy(), minus.numpy(), least.numpy(), greatest.numpy()
    k.forward_bounds(low.numpy(), high.numpy(), *lists, *arrays, torch.get_num_threads())
    return least.t()[: len(lower)], greatest.t()[: len(lower)]


def _padded(x: Tensor, rows: int) -> Tensor:
    """x [B, I] with its last row repeated up to so many rows, row by row or column by column in memory."""
    if len(x) < rows:
        return x[torch.arange(rows).clamp(max=len(x) - 1)]
    # Numba compiles a kernel for either order.
    return x if x.t().is_contiguous() else x.contiguous()


def _kernels() -> ModuleType:
    return ready("sparse_kernels")
