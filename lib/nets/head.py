"""The ordinary network g on top of a distance net (Section 6), with interval bounds that pay for float32 rounding."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.nets.box import Box

# Entries that the W~ of all images of a batch may have together; beyond, they would leave the cache, or the memory.
_CPU_ENTRIES, _GPU_ENTRIES = 2**23, 2**30

UNIT_ROUNDOFF = 2.0**-24  # of float32, rounding to nearest
LARGEST_SUM = 2.0**126  # a float32 sum whose terms are larger in all may overflow on the way: nothing bounds it
TANH_ERROR = 8 * UNIT_ROUNDOFF  # |executed tanh - tanh|: library implementations stay within a few ulps of 1


class Linear(nn.Module):
    """z = (W / sqrt(d_in)) v + b, with W from N(0, 1) and b from 0; the factor is applied at run time.

    Args:
        in_features, out_features: widths d_in and d_out.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def extra_repr(self) -> str:
        return f"in_features={self.weight.shape[1]}, out_features={self.weight.shape[0]}"

    @property
    def scaled_weight(self) -> Tensor:
        """W / sqrt(d_in) as executed, [d_out, d_in]."""
        return self.weight * (1 / math.sqrt(self.weight.shape[1]))

    def forward(self, v: Tensor, p: float = math.inf) -> Tensor:
        """v [B, d_in] -> z [B, d_out]; p is not used."""
        return F.linear(v, self.scaled_weight, self.bias)

    def ibp(self, box: Box) -> Box:
        """Eq. 19-20 in real arithmetic, in the dtype of the box: mu' = W mu + b, r' = |W| r. Differentiable."""
        weight, bias = self.scaled_weight.to(box.lower), self.bias.to(box.lower)
        center = F.linear(box.center, weight, bias)
        halfwidth = F.linear(box.halfwidth, weight.abs())
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

        gamma_n = n u / (1 - n u) holds for any order of summation, fused or not (n = d_in products, one bias, one
        spare). The factor 1.0001 covers the float64 arithmetic of the bounds themselves, (n + sum |W| + sum |v|) 2^-124
        underflow, of results and of inputs, flushed to zero or not. Infinite where |W| |v| + |b| exceeds `LARGEST_SUM`
        or has no bound, and where n is 2^23 or more.
        """
        n = self.weight.shape[1] + 2
        share = n * UNIT_ROUNDOFF
        gamma, largest = (share / (1 - share), LARGEST_SUM) if share < 0.5 else (0.0, -1.0)
        inputs, weight = box.magnitude.double(), self.scaled_weight.double().abs()
        size = F.linear(inputs, weight, self.bias.double().abs())
        underflow = (n + weight.sum(1) + inputs.sum(1, keepdim=True)) * 2.0**-124
        return torch.where(size <= largest, 1.0001 * gamma * size + underflow, math.inf)


class Tanh(nn.Module):
    """Entrywise tanh."""

    def forward(self, v: Tensor, p: float = math.inf) -> Tensor:
        """tanh(v); p is not used."""
        return v.tanh()

    def ibp(self, box: Box) -> Box:
        """tanh is increasing: the image of the ends. Differentiable."""
        return box.map(Tensor.tanh)

    def bounds(self, box: Box) -> Box:
        """As `ibp`, in float64, widened by what an executed float32 tanh may be off.

        Infinite where v has no bound: it may then be NaN, and so its tanh.
        """
        lower, upper = self.ibp(box.map(Tensor.double))
        unbounded = box.halfwidth.isinf()
        return Box(
            (lower - TANH_ERROR).masked_fill(unbounded, -math.inf),
            (upper + TANH_ERROR).masked_fill(unbounded, math.inf),
        )


class MLPHead(nn.Module):
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

    def forward(self, v: Tensor, p: float = math.inf) -> Tensor:
        """v [B, in_features] -> logits [B, K]; p is not used."""
        return self.fc2(self.tanh(self.fc1(v)))

    def bounds(self, box: Box) -> Box:
        """Bounds [B, K] in float64 of every logit that float32 can execute for v in the box."""
        return self.fc2.bounds(self._hidden_bounds(box))

    def ibp_margin(self, box: Box, y: Tensor) -> Tensor:
        """Upper bounds [B, K] of z_i - z_y over the box in real arithmetic (Eq. 21), for training; entry y is 0."""
        return merged_margin(self.fc2, self.tanh.ibp(self.fc1.ibp(box)), y)

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
        return self.tanh.bounds(self.fc1.bounds(box))


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
