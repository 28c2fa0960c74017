"""Lemma A.1: every function that is 1-Lipschitz in l_inf is, up to eps, a maximum of finitely many pyramids."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lib.ops import lp_dist

MOST_PYRAMIDS = 10_000  # a deep net has two layers for each; beyond this, seconds become minutes

_ROWS = 500  # rows of the table of all distances at a time: bounds memory, not results

Target = Callable[[Tensor], Tensor]  # [B, d] -> [B]


class Pyramids(NamedTuple):
    """m pyramids F_i(x) = F(w_i) - ||x - w_i||_inf (Eq. 7) over a box: centers w [m, d], heights F(w) [m].

    lower, upper: the box K, [d] each.
    """

    centers: Tensor
    heights: Tensor
    lower: Tensor
    upper: Tensor

    def values(self, x: Tensor) -> Tensor:
        """Every F_i at every point: x [B, d] -> [B, m]."""
        return self.heights - lp_dist(x, self.centers)

    @property
    def bound(self) -> float:
        """C = 2 C1 + C2 with C1 = max ||x||_inf over K and C2 = max |F(w_i)|: no unit of the deep nets exceeds it."""
        return 2 * self.reach + float(self.heights.abs().max())

    @property
    def reach(self) -> float:
        """C1 = max ||x||_inf over the box."""
        return float(torch.maximum(self.lower.abs(), self.upper.abs()).max())


def pyramids(
    target: Target,
    lower: Sequence[float] | Tensor,
    upper: Sequence[float] | Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
) -> Pyramids:
    """The pyramids with F - eps <= max_i F_i <= F on the box lower <= x <= upper (Lemma A.1; Eq. 7, 8).

    The box is cut into N_j = ceil(S_j / eps) cells along side S_j, and each cell's centre carries a pyramid, so that
    m = prod_j N_j. F_i <= F because F is 1-Lipschitz; and within a cell ||x - w_i||_inf <= S_j / (2 N_j) <= eps / 2,
    so that F - F_i <= 2 ||x - w_i||_inf <= max_j S_j / N_j <= eps.

    Args:
        target: F, from points [B, d] of the given dtype to values [B]; 1-Lipschitz with respect to l_inf.
        lower, upper: corners of the box, [d] each.
        eps: the error to stay below, in the units of F and x, which are the same.
        dtype: of the points and of the result, None is torch's default.

    Raises:
        ValueError: a box that is none, eps not positive, more than `MOST_PYRAMIDS` pyramids (the number is named),
            values of F that are not [B] or not finite, or two points between which F rises faster than their distance
            (both are named). All pairs of centres are tried, and in each cell the two opposite corners between which
            F seems steepest; a rise that these points do not see is not found.
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    low, high = _box(lower, upper)
    cells = _cells(high - low, eps)
    step = (high - low) / torch.tensor(cells)
    index = torch.cartesian_prod(*[torch.arange(n) for n in cells]).view(-1, len(cells))
    centers = (low + (index + 0.5) * step).to(dtype)
    heights = _values(target, centers)
    found = Pyramids(centers, heights, low.to(dtype), high.to(dtype))
    _check_pairs(found)
    _check_corners(target, found, step.to(dtype) / 2)
    return found


def _box(lower: Sequence[float] | Tensor, upper: Sequence[float] | Tensor) -> tuple[Tensor, Tensor]:
    low, high = (torch.atleast_1d(torch.as_tensor(end, dtype=torch.float64, device="cpu")) for end in (lower, upper))
    if low.dim() != 1 or low.shape != high.shape or not len(low):
        raise ValueError(f"lower and upper must be [d] with one d, got {list(low.shape)} and {list(high.shape)}")
    if not ((low <= high) & low.isfinite() & high.isfinite()).all():
        raise ValueError(f"lower is {low.tolist()} and upper {high.tolist()}, expected finite, lower <= upper")
    return low, high


def _cells(sides: Tensor, eps: float) -> list[int]:
    longest = float(sides.max())
    if not (eps > 0 and longest / eps < math.inf):
        raise ValueError(f"eps is {eps}, expected a positive number, and a box whose sides can be counted in it")
    cells = [max(1, math.ceil(side / eps)) for side in sides.tolist()]
    count = math.prod(cells)
    if count > MOST_PYRAMIDS:
        raise ValueError(
            f"eps is {eps} on a box with sides {sides.tolist()}, which takes {count} pyramids, "
            f"expected at most {MOST_PYRAMIDS}"
        )
    return cells


def _values(target: Target, x: Tensor) -> Tensor:
    with torch.no_grad():
        values = target(x)
    if values.shape != x.shape[:1]:
        raise ValueError(f"target must map points {list(x.shape)} to values [{len(x)}], got {list(values.shape)}")
    if not values.isfinite().all():
        at = x[(~values.isfinite()).nonzero()[0, 0]].tolist()
        raise ValueError(f"target is {values[~values.isfinite()][0].item()} at {at}, expected finite values")
    return values.to(x.dtype)


def _tolerance(found: Pyramids) -> float:
    # values of F carry rounding errors of their own
    return 64 * torch.finfo(found.centers.dtype).eps * max(1.0, found.bound)


def _check_pairs(found: Pyramids) -> None:
    """Refuse F where F_i exceeds F at some other centre: |F(w_i) - F(w_k)| > ||w_i - w_k||_inf."""
    for rows in torch.arange(len(found.centers)).split(_ROWS):
        excess = found.values(found.centers[rows]) - found.heights[rows, None]
        if excess.max() > _tolerance(found):
            at, other = divmod(int(excess.argmax()), len(found.centers))
            _refuse(found.centers[rows[at]], found.centers[other], found.heights[rows[at]], found.heights[other])


def _check_corners(target: Target, found: Pyramids, half: Tensor) -> None:
    """Refuse F that rises too fast between opposite corners of a cell, in the direction of its slopes at the centre."""
    steps = half * torch.eye(len(half), dtype=half.dtype)
    slopes = [_values(target, found.centers + s) - _values(target, found.centers - s) for s in steps]
    towards = torch.where(torch.stack(slopes, 1) < 0, -half, half)
    top, bottom = ((found.centers + way).clamp(found.lower, found.upper) for way in (towards, -towards))
    high, low = _values(target, top), _values(target, bottom)
    excess = (high - low).abs() - (top - bottom).abs().amax(1)
    worst = int(excess.argmax())
    if excess[worst] > _tolerance(found):
        _refuse(top[worst], bottom[worst], high[worst], low[worst])


def _refuse(x: Tensor, other: Tensor, value: Tensor, other_value: Tensor) -> None:
    rise, distance = abs(float(value - other_value)), float((x - other).abs().max())
    raise ValueError(
        f"target changes by {rise:.6g} from x = {x.tolist()} to x' = {other.tolist()}, which are {distance:.6g} apart, "
        "expected a function that is 1-Lipschitz in l_inf"
    )
