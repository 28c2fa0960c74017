"""The ordinary network g on top of a distance net (Section 6), with interval bounds that pay for float32 rounding."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.nets.box import Box

# Entries that the W~ of all images of a batch may have together; beyond, they would leave the cache, or the memory.
_CPU_ENTRIES, _GPU_ENTRIES = 2**23, 2**30

UNIT_ROUNDOFF = 2.0**-24  # of float32, rounding to nearest
LARGEST_SUM = 2.0**126  # a float32 sum whose terms are larger in all may overflow on the way: nothing bounds it
TANH_ERROR = 8 * UNIT_ROUNDOFF  # |executed tanh - tanh|: library implementations stay within a few ulps of 1


class Affine(nn.Module, ABC):
    """z = (W / sqrt(n)) v + b for rows v, with W from N(0, 1) and b from 0; the factor is applied at run time.

    Args:
        units: rows of W, and entries of b.
        inputs: those of a unit, n in all.
    """

    def __init__(self, units: int, *inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(units, *inputs))
        self.bias = nn.Parameter(torch.zeros(units))

    @property
    def inputs(self) -> int:
        """n, the inputs of a unit."""
        return math.prod(self.weight.shape[1:])

    @property
    def scaled_weight(self) -> Tensor:
        """W / sqrt(n) as executed."""
        return self.weight * (1 / math.sqrt(self.inputs))

    def forward(self, v: Tensor, p: float = math.inf) -> Tensor:
        """v [B, d_in] -> z [B, d_out]; p is not used."""
        return self.product(self.scaled_weight, v, self.bias)

    @abstractmethod
    def product(self, weight: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """W v + b [B, d_out], each entry a sum of n products and its bias, in any order."""

    @abstractmethod
    def per_output(self, of_units: Tensor) -> Tensor:
        """Numbers of the units as those of the outputs, [d_out]."""

    def ibp(self, box: Box) -> Box:
        """Eq. 19-20 in real arithmetic, in the dtype of the box: mu' = W mu + b, r' = |W| r. Differentiable."""
        weight, bias = self.scaled_weight.to(box.lower), self.bias.to(box.lower)
        center = self.product(weight, box.center, bias)
        halfwidth = self.product(weight.abs(), box.halfwidth)
        return Box(center - halfwidth, center + halfwidth)

    def bounds(self, box: Box) -> Box:
        """Bounds [B, d_out] in float64 of every z that float32 can execute for v in the box, whatever the order.

        Infinite where that may overflow, as it may behind an input without bounds.
        """
        box = box.map(Tensor.double)
        lower, upper = self.ibp(box)
        slack = self.rounding(box)
        return Box(torch.where(slack.isinf(), -slack, lower - slack), torch.where(slack.isinf(), slack, upper + slack))

    def rounding(self, box: Box) -> Tensor:
        """gamma_n (|W| |v| + |b|), [B, d_out] in float64: how far an executed z can be from the real one.

        gamma_n = n u / (1 - n u) holds for any order of summation, fused or not (n products, one bias, one spare). The
        factor 1.0001 covers the float64 arithmetic of the bounds themselves, (n + sum |W| + sum |v|) 2^-124, of all v
        of a row, underflow, of results and of inputs, flushed to zero or not. Infinite where |W| |v| + |b| exceeds
        `LARGEST_SUM` or has no bound, and where n is 2^23 or more.
        """
        n = self.inputs + 2
        share = n * UNIT_ROUNDOFF
        gamma, largest = (share / (1 - share), LARGEST_SUM) if share < 0.5 else (0.0, -1.0)
        inputs, weight = box.magnitude.double(), self.scaled_weight.double().abs()
        size = self.product(weight, inputs, self.bias.double().abs())
        weights = self.per_output(weight.flatten(1).sum(1))
        underflow = (n + weights + inputs.sum(1, keepdim=True)) * 2.0**-124
        return torch.where(size <= largest, 1.0001 * gamma * size + underflow, math.inf)


class Linear(Affine):
    """z = (W / sqrt(d_in)) v + b, with W from N(0, 1) and b from 0.

    Args:
        in_features, out_features: widths d_in and d_out.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(out_features, in_features)

    def extra_repr(self) -> str:
        return f"in_features={self.weight.shape[1]}, out_features={self.weight.shape[0]}"

    def product(self, weight: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """W v + b."""
        return F.linear(v, weight, bias)

    def per_output(self, of_units: Tensor) -> Tensor:
        """The same: every unit is an output."""
        return of_units


class Increasing(nn.Module, ABC):
    """An increasing function of each entry.

    Attributes:
        error: |executed - real| in float32, at most.
    """

    error: float

    @abstractmethod
    def forward(self, v: Tensor, p: float = math.inf) -> Tensor:
        """The function of every entry of v; p is not used."""

    def ibp(self, box: Box) -> Box:
        """The image of the ends, the function being increasing. Differentiable."""
        return box.map(self.forward)

    def bounds(self, box: Box) -> Box:
        """As `ibp`, in float64, widened by what a value executed in float32 may be off.

        Infinite where v has no bound: it may then be NaN, and so its image.
        """
        lower, upper = self.ibp(box.map(Tensor.double))
        unbounded = box.halfwidth.isinf()
        return Box(
            (lower - self.error).masked_fill(unbounded, -math.inf),
            (upper + self.error).masked_fill(unbounded, math.inf),
        )


class Tanh(Increasing):
    """Entrywise tanh."""

    error = TANH_ERROR

    def forward(self, v: Tensor, p: float = math.inf) -> Tensor:
        """tanh(v); p is not used."""
        return v.tanh()


class Head(nn.Module, ABC):
    """An ordinary network on rows of features: affine layers with increasing functions between them.

    Attributes:
        fc1, fc2: the last two affine layers; fc2 gives the logits.
    """

    fc1: Linear
    fc2: Linear

    @abstractmethod
    def hidden_layers(self) -> list[Affine | Increasing]:
        """All layers but the last, in their order."""

    def forward(self, v: Tensor, p: float = math.inf) -> Tensor:
        """v [B, in_features] -> logits [B, K]; p is not used."""
        for layer in self.hidden_layers():
            v = layer(v)
        return self.fc2(v)

    def bounds(self, box: Box) -> Box:
        """Bounds [B, K] in float64 of every logit that float32 can execute for v in the box."""
        return self.fc2.bounds(self._hidden_bounds(box))

    def ibp_margin(self, box: Box, y: Tensor) -> Tensor:
        """Upper bounds [B, K] of z_i - z_y over the box in real arithmetic (Eq. 21), for training; entry y is 0."""
        for layer in self.hidden_layers():
            box = layer.ibp(box)
        return merged_margin(self.fc2, box, y)

    def margin_ub(self, box: Box, y: Tensor) -> Tensor:
        """Upper bounds [B, K] in float64 of z_i - z_y of every execution in float32; entry y is 0.

        Eq. 21 on the last layer, plus the rounding of both logits; infinite where one may overflow. Needs float32
        products of full precision: the caller sees to it that no TF32 or autocast is active.
        """
        hidden = self._hidden_bounds(box)
        slack = self.fc2.rounding(hidden)
        slack = slack + slack.gather(1, y[:, None])
        margin = torch.where(slack.isinf(), slack, merged_margin(self.fc2, hidden, y) + slack)
        return margin.scatter(1, y[:, None], 0.0)

    def margin_lb(self, box: Box, y: Tensor) -> Tensor:
        """-max_{i != y} of `margin_ub` [B]: the margin z_y - max_{i != y} z_i of every execution is at least that."""
        return -self.margin_ub(box, y).scatter(1, y[:, None], -math.inf).amax(1)

    def _hidden_bounds(self, box: Box) -> Box:
        for layer in self.hidden_layers():
            box = layer.bounds(box)
        return box


class MLPHead(Head):
    """FC(hidden), tanh, FC(num_classes): the head g of the composite net (Table 5).

    Args:
        in_features: width of the features f(x).
        hidden: width of the hidden layer.
        num_classes: number of logits K.
    """

    def __init__(self, in_features: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.fc1 = Linear(in_features, hidden)
        self.tanh = Tanh()
        self.fc2 = Linear(hidden, num_classes)

    def hidden_layers(self) -> list[Affine | Increasing]:
        """fc1 and tanh."""
        return [self.fc1, self.tanh]


def merged_margin(last: Linear, box: Box, y: Tensor) -> Tensor:
    """mbar = W~ mu + b~ + |W~| r with W~_i = W_i - W_y, b~_i = b_i - b_y (Eq. 21); never looser than u_i - l_y.

    Args:
        last: the last affine layer.
        box: its input, [B, hidden].
        y: labels [B].

    Returns:
        mbar [B, K] in the dtype of the box; entry y is 0. Differentiable.
    """
    weight, bias = last.scaled_weight.to(box.lower), last.bias.to(box.lower)
    center = F.linear(box.center, weight, bias)
    most = _CPU_ENTRIES if y.device.type == "cpu" else _GPU_ENTRIES
    spread = _spread if len(y) * weight.numel() <= most else _spread_by_label
    return center - center.gather(1, y[:, None]) + spread(weight, box.halfwidth, y)


def _spread(weight: Tensor, r: Tensor, y: Tensor) -> Tensor:
    """|W~| r [B, K] at once, with a W~ for each image."""
    differences = (weight[None] - weight[:, None]).abs()  # [K (label), K, hidden]
    # an embedding, not differences[y], whose gradient on several threads is summed in any order
    of_label = F.embedding(y, differences.flatten(1)).unflatten(1, weight.shape)
    return torch.einsum("bh,bkh->bk", r, of_label)


def _spread_by_label(weight: Tensor, r: Tensor, y: Tensor) -> Tensor:
    """The same with one W~ for all images of a label."""
    order, counts = y.argsort(stable=True), y.bincount(minlength=len(weight)).tolist()
    groups = r[order].split(counts)
    spreads = [F.linear(group, (weight - row).abs()) for group, row in zip(groups, weight, strict=True) if len(group)]
    return torch.cat(spreads)[order.argsort()]
