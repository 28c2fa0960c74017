"""SortNet (NeurIPS 2022): neurons that weigh the largest distances, trained by leaving inputs out, never by sorting."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.nets.arguments import integer, real
from lib.nets.base import PlainNet
from lib.nets.box import Box, check_ends
from lib.nets.layers import LInfDist, as_rows
from lib.ops import lp_dist
from lib.ops.order import sort_dist, sort_dist_bounds

GROUP = 32  # samples that share one draw of inputs


class SortLinear(LInfDist):
    """A layer of SortNet neurons, y_o = sum_k c_k |x - w_o|_(k) + b_o over sorted distances, then the mean shift.

    c_k = q (1 - q)^(k-1) / (1 - (1-q)^K), k = 1..K: nonnegative of sum 1, so a neuron is 1-Lipschitz in l_inf like the
    distance itself, which is q = 1. In training no neuron sorts: each input is kept with probability q, and the largest
    of the kept distances has the expectation sum_k q (1-q)^(k-1) |x - w|_(k). Samples share their kept inputs in groups
    of `GROUP`; how many are kept is drawn once for all groups, from torch's generator like any dropout. (The mean shift
    below is over all samples; in the released code, over those whose group keeps the unit.)

    At finite p training takes the l_p distance over the kept inputs. In evaluation it is q^(1/p) ||x - w||_p, whose
    p-th power is the mean of that: a smooth companion for attacks. Certificates speak of p = inf.

    Args:
        in_features, out_features, bias, mean_shift, identity: as in `LInfDist`.
        keep_prob: q, 0 < q <= 1.
        top_k: K, the order statistics that count in evaluation, at most in_features.

    Raises:
        ValueError, TypeError: what `LInfDist` refuses, keep_prob outside (0, 1], top_k that is no integer from 1 on.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        keep_prob: float,
        top_k: int = 10,
        bias: bool = False,
        mean_shift: bool = True,
        identity: float = 10.0,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, mean_shift=mean_shift, identity=identity)
        self.keep_prob = real("keep_prob", keep_prob)
        if not 0 < self.keep_prob <= 1:
            raise ValueError(f"keep_prob must lie in (0, 1], got {keep_prob}")
        places = min(integer("top_k", top_k, at_least=1), in_features)
        self.coefficients = coefficients(self.keep_prob, places)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, keep_prob={self.keep_prob}, top_k={len(self.coefficients)}"

    @property
    def roundings(self) -> int:
        """Those of `LInfDist`, K of products and K - 1 of sums at most, one to spare."""
        return super().roundings + 2 * len(self.coefficients)

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, ...] of d_in features in all -> [B, d_out]; ValueError where the features do not match."""
        return self._finish(self._distances(as_rows(x), p), p)

    def bounds(self, box: Box) -> Box:
        """Bounds at p = inf, exact for each unit over the box; ValueError in training mode, where no neuron sorts."""
        if self.training:
            raise ValueError("bounds need sorted sums in evaluation mode, got training mode (call eval())")
        check_ends(box)
        return self._finish_bounds(Box(*sort_dist_bounds(*box.map(as_rows), self.weight, self.coefficients)))

    def _distances(self, x: Tensor, p: float) -> Tensor:
        if self.training:
            return self._of_kept_inputs(x, p)
        if math.isinf(p):
            return sort_dist(x, self.weight, self.coefficients)
        return self.keep_prob ** (1 / p) * lp_dist(x, self.weight, p)

    def _of_kept_inputs(self, x: Tensor, p: float) -> Tensor:
        features = x.shape[1]
        count = max(1, int((torch.rand(features, device="cpu") < self.keep_prob).sum()))
        groups = []
        for group in x.split(GROUP):
            kept = torch.randperm(features, device="cpu")[:count].to(x.device, non_blocking=True)
            # index_select, not [:, kept]: the same gradients from a far faster backward
            groups.append(lp_dist(group.index_select(1, kept), self.weight.index_select(1, kept), p))
        return torch.cat(groups)


def coefficients(q: float, count: int) -> tuple[float, ...]:
    """c_1, ..., c_count, numbers of float32 rounded down, so that their sum is at most 1 in real arithmetic, to 2^-52.

    Those that would be denormal are 0.
    """
    # Over their own sum, which is (1 - (1 - q)^count) / q: that difference would cancel for a small q.
    powers = np.array([(1 - q) ** k for k in range(count)])
    c = powers / powers.sum()
    nearest = c.astype(np.float32)
    down = np.where(nearest <= c, nearest, np.nextafter(nearest, np.float32(0)))
    return tuple(np.where(down >= np.finfo(np.float32).tiny, down, 0).tolist())


class SortNet(PlainNet):
    """The l_inf-dist net with SortNet neurons behind its first layer: depth layers, logits = -(output of the last).

    The first of several layers, which sees pixels, takes the whole maximum (q = 1), as in the released code.

    Args:
        input_shape, num_classes, width, depth, mean, std, identity: as in `LInfDistNet`.
        keep_prob, top_k: as in `SortLinear`. Not in the state_dict; `lib.save` keeps them.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int,
        depth: int,
        keep_prob: float,
        top_k: int = 10,
        mean: float | Iterable[float] = 0.0,
        std: float = 1.0,
        identity: float = 10.0,
    ) -> None:
        sizes = {"width": width, "depth": depth, "top_k": top_k}
        numbers = {"identity": identity, "keep_prob": keep_prob}
        super().__init__(input_shape, num_classes, mean, std, sizes=sizes, numbers=numbers)
        neuron: dict[str, Any] = {"keep_prob": keep_prob, "top_k": top_k, "identity": identity}
        pixels = math.prod(self.input_shape)
        hidden = [LInfDist(pixels, width, identity=identity)] if depth > 1 else []
        hidden += [SortLinear(width, width, **neuron) for _ in range(depth - 2)]
        self.layers = nn.ModuleList(hidden)
        self.top = SortLinear(width if depth > 1 else pixels, num_classes, bias=True, mean_shift=False, **neuron)
