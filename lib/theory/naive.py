"""Certificates computed as anyone would at first, so that the book can show where they lie."""

import torch
from torch import Tensor

from lib.nets.base import DistanceNet, margin
from lib.nets.models import LInfDistNet
from lib.robustness.inputs import evaluation_mode


def half_margin(net: DistanceNet, x: Tensor, y: Tensor) -> Tensor:
    """std * (f_y - max_{i != y} f_i) / 2, [B], pixels: what Fact 3.6 claims to prove; negative where the net is wrong.

    Executed in the net's own precision at p = inf, with nothing set aside for rounding and without a look at whether
    the net is 1-Lipschitz. No certificate: see `lib.certify`.

    Args:
        net: any net; executed in evaluation mode, its own mode comes back.
        x: images [B, C, H, W].
        y: labels [B].
    """
    with torch.no_grad(), evaluation_mode(net):
        logits = net(x)
    return net.std * margin(logits, y) / 2


def rounding_trap() -> tuple[LInfDistNet, Tensor, Tensor]:
    """A net of one pixel and two classes, an image [1, 1, 1, 1], and a nearer image of the other class than it claims.

    The weights are -2^20 and 2^20 + 9/8, where float32 numbers lie 1/8 apart, so the distances 2^20 + x and
    2^20 + 9/8 - x are rounded to multiples of 1/8: at x = 0.435 the smaller one down and the larger one up, by 0.06
    each. The `half_margin` is 0.1875 for a true 0.1275, and the second image is 0.187 away.
    """
    net = LInfDistNet((1, 1, 1), 2, width=1, depth=1).eval()
    with torch.no_grad():
        net.top.weight.copy_(torch.tensor([[-(2.0**20)], [2.0**20 + 9 / 8]]))
    return net, torch.full((1, 1, 1, 1), 0.435), torch.full((1, 1, 1, 1), 0.622)
