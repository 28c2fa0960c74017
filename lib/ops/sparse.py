"""The p = inf distance over shortlists of weights, float32 on the CPU; which weights may be left out is not its affair.

    y_o = max(floor_o, max_{i in above_o} (x_i - w_oi), max_{i in below_o} (w_oi - x_i))

A maximum does not depend on the order of its terms: the result is exact.
"""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lib.ops.compiled import ready


class Shortlists(NamedTuple):
    """Lists above_0, below_0, above_1, ... one after another, each in the order of the inputs.

    first: list n has the entries first[n] to first[n + 1], [2 O + 1]. place, weight: of each entry, place being where
    its input starts in a tile of the kernels. floor: [O].
    """

    first: NDArray[np.int64]
    place: NDArray[np.int32]
    weight: NDArray[np.float32]
    floor: NDArray[np.float32]

    def column(self) -> Tensor:
        """The input that each entry looks at."""
        return torch.from_numpy(self.place // _kernels().LANES).long()

    def unit(self) -> Tensor:
        """The unit that each entry belongs to."""
        return torch.arange(2 * len(self.floor)).repeat_interleave(torch.from_numpy(np.diff(self.first))) // 2


def shortlists(weight: Tensor, above: Tensor, below: Tensor, floor: Tensor) -> Shortlists:
    """Lists of the weights [O, I] that can give more than the floor [O], which is at least 0.

    above, below: the most that x_i - w_oi and w_oi - x_i can be, [O, I] each; entries at or below the floor are left
    out, the others must hold for every x the lists are used on.
    """
    kept = torch.stack([above, below], 1).flatten(0, 1) > floor.repeat_interleave(2)[:, None]  # [2 O, I]
    row, column = kept.nonzero(as_tuple=True)
    return Shortlists(
        F.pad(kept.sum(1).cumsum(0), (1, 0)).numpy(),
        (_kernels().LANES * column).int().numpy(),
        weight[row // 2, column].numpy(),
        floor.abs().numpy(),  # a floor of -0 would not compare like its bits
    )


def linf_dist(x: Tensor, lists: Shortlists, plus: Tensor, minus: Tensor) -> Tensor:
    """(distance + plus) - minus, rounded in this order: x [B, I], plus and minus [O] -> [B, O].

    The result is stored sample by sample for each unit, the order in which the next layer reads it fastest.
    """
    padded = _padded(x)
    y = x.new_empty(len(lists.floor), len(padded))
    arrays = *_arrays(lists, plus, minus), y.flatten().numpy()
    _kernels().forward(padded.numpy(), *arrays, torch.get_num_threads())
    return y.t()[: len(x)]


def linf_dist_bounds(
    lower: Tensor, upper: Tensor, lists: Shortlists, plus: Tensor, minus: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds of the same over the box lower <= x <= upper, [B, O] each."""
    low, high = _padded(lower), _padded(upper)
    least, greatest = (lower.new_empty(len(lists.floor), len(low)) for _ in range(2))
    arrays = *_arrays(lists, plus, minus), least.flatten().numpy(), greatest.flatten().numpy()
    _kernels().forward_bounds(low.numpy(), high.numpy(), *arrays, torch.get_num_threads())
    return least.t()[: len(lower)], greatest.t()[: len(lower)]


def _padded(x: Tensor) -> Tensor:
    """x [B, I] with its last row repeated up to the LANES of a tile, row by row or column by column in memory."""
    lanes = _kernels().LANES
    if len(x) < lanes:
        return x[torch.arange(lanes).clamp(max=len(x) - 1)]
    # Numba compiles a kernel for either order.
    return x if x.t().is_contiguous() else x.contiguous()


def _arrays(lists: Shortlists, plus: Tensor, minus: Tensor) -> tuple[NDArray[Any], ...]:
    return *lists, plus.numpy(), minus.numpy()


def _kernels() -> ModuleType:
    return ready("sparse_kernels")
