"""Which pixel a logit listens to: at p = inf every unit follows one unit below it, and so on down."""

from typing import NamedTuple

import torch
from torch import Tensor

from lib.nets.base import PlainNet
from lib.nets.checks import check_neurons
from lib.robustness.inputs import evaluation_mode


class Followed(NamedTuple):
    """The unit that each logit follows in one layer, int64 [B, K], and the slope of the logit in it, +1 or -1."""

    units: Tensor
    slopes: Tensor


def paths(net: PlainNet, x: Tensor) -> list[Followed]:
    """What each logit follows in every layer, from the features down to the pixel.

    The distance of a unit is that to one of its inputs, the first that is furthest from its weight (Fact 3.4's proof),
    and grows with it where that input is above the weight, falls where it is below. Two logits that follow one unit
    with equal slopes move together, by the same amount, as long as neither changes its path; with opposite slopes one
    rises as the other falls.

    Args:
        net: a net of distance layers alone; followed in evaluation mode, its own mode comes back.
        x: images [B, C, H, W] in [0, 1].

    Raises:
        TypeError: other neurons than l_inf-dist ones, or another normalisation than mean shift.
    """
    check_neurons(net.distance_layers())
    with torch.no_grad(), evaluation_mode(net):
        units = torch.arange(net.num_classes, device=x.device).expand(len(x), -1)
        slopes = -torch.ones_like(units)  # a logit is the distance of a unit, negated
        found = []
        for layer, inputs in zip(net.distance_layers()[::-1], net.activations(x)[::-1], strict=True):
            units, rises = _furthest(inputs.flatten(1), layer.weight, units)
            slopes = torch.where(rises, slopes, -slopes)
            found.append(Followed(units, slopes))
    return found


def _furthest(x: Tensor, w: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """i = argmax_i |x_bi - w_oi| for the units o = units[b, k], and whether x_bi >= w_oi there.

    x [B, I], w [O, I], units [B, K] -> both [B, K].
    """
    apart = [x - w[column] for column in units.T]
    furthest = [each.abs().argmax(1, keepdim=True) for each in apart]
    rises = [each.gather(1, place) >= 0 for each, place in zip(apart, furthest, strict=True)]
    return torch.cat(furthest, 1), torch.cat(rises, 1)
