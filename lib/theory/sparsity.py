"""How few of its terms |x_i - w_i| a distance needs: at p = inf those that can be largest, else those that count."""

import math

import torch
from torch import Tensor

from lib.nets.box import Box
from lib.ops import linf_dist_bounds

BITS = 24  # of a float32 significand: what is added to a number of at least 1 and is below 2^-24 leaves it as it is


def needed_weights(box: Box, w: Tensor, p: float = math.inf) -> Tensor:
    """The share of the weights w [O, I] that some x in a box can need, one for each box: lower, upper [B, I] -> [B].

    Needed is a weight for which max(u_i - w_i, w_i - l_i) > 2^(-24 / p) L, with L the least p = inf distance over the
    box: no other term can be the largest (p = inf), or reach 2^-24 of the largest when both are raised to the power p.
    """
    floor, _ = linf_dist_bounds(box.lower, box.upper, w)
    shares = []
    for lower, upper, least in zip(*box, floor, strict=True):
        most = torch.maximum(upper - w, w - lower)
        shares.append((most > 2 ** (-BITS / p) * least[:, None]).double().mean())
    return torch.stack(shares)


def visited_weights(y: Tensor, w: Tensor, box: Box, together: int) -> Tensor:
    """The least share of the weights w [O, I] that samples taken `together` at a time must look at to be done.

    Terms of either side come in the order of the most that they can be, u_i - w_i or w_i - l_i over a box [1, I] of all
    inputs: a side is done once each sample of a group has reached what its next term can be. y [B, O]: the distances ->
    [groups].
    """
    most = torch.cat([box.upper - w, w - box.lower], 1)
    reached = [group.amin(0)[:, None] for group in y.split(together)]
    return torch.stack([(most > least).sum() / w.numel() for least in reached])


def counting_terms(x: Tensor, w: Tensor, p: float) -> Tensor:
    """The share of the terms of each sample, x [B, I], w [O, I] -> [B], with (|t_i| / max_j |t_j|)^p at least 2^-24."""
    shares = []
    for row in x:
        t = (row - w).abs()
        shares.append((t >= 2 ** (-BITS / p) * t.amax(1, keepdim=True)).double().mean())
    return torch.stack(shares)


def power_sums(x: Tensor, w: Tensor, p: float, cut: float = 0.0) -> Tensor:
    """sum_i (|t_i| / m)^p in float32 over the terms of at least `cut`, m = max_i |t_i|; x [I], w [O, I] -> [O].

    The largest term, 1, comes first and the others follow one by one.
    """
    t = (x - w).abs()
    terms = (t / t.amax(1, keepdim=True)).pow(p)
    terms = terms.where(terms >= cut, 0.0)
    first = terms.argmax(1, keepdim=True)
    total = terms.gather(1, first)[:, 0]
    for column in terms.scatter(1, first, 0.0).unbind(1):
        total = total + column
    return total
