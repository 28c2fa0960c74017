"""Certificates computed as anyone would at first, so that the book can show where they lie."""

import math

import torch
from torch import Tensor

from lib.nets.models import DistanceNet


def half_margin(net: DistanceNet, x: Tensor, y: Tensor) -> Tensor:
    """std * (f_y - max_{i != y} f_i) / 2, [B], pixels: what Fact 3.6 claims to prove; negative where the net is wrong.

    Executed in the net's own precision at p = inf, with nothing set aside for rounding and without a look at whether
    the net is 1-Lipschitz. No certificate: see `lib.certify`.

    Args:
        net: in evaluation mode.
        x: images [B, C, H, W].
        y: labels [B].
    """
    with torch.no_grad():
        logits = net(x)
    rivals = logits.scatter(1, y[:, None], -math.inf).amax(1)
    return net.std * (logits.gather(1, y[:, None]).squeeze(1) - rivals) / 2
