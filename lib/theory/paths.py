"""Which pixel a logit listens to: at p = inf every unit follows one unit below it, and so on down."""

import torch
from torch import Tensor

from lib.nets.base import PlainNet
from lib.nets.checks import check_neurons
from lib.robustness.inputs import evaluation_mode


def paths(net: PlainNet, x: Tensor) -> list[Tensor]:
    """The unit that each logit follows in every layer, from the features down to the pixel: int64 [B, K] each.

    The distance of a unit is that to one of its inputs, the first that is furthest from its weight (Fact 3.4's proof).
    Two logits whose paths have met move together, by the same amount, as long as neither changes its path.

    Args:
        net: a net of distance layers alone; followed in evaluation mode, its own mode comes back.
        x: images [B, C, H, W] in [0, 1].

    Raises:
        TypeError: other neurons than l_inf-dist ones, or another normalisation than mean shift.
    """
    check_neurons(net.distance_layers())
    with torch.no_grad(), evaluation_mode(net):
        followed = torch.arange(net.num_classes).expand(len(x), -1)
        found = []
        for layer, inputs in zip(net.distance_layers()[::-1], net.activations(x)[::-1], strict=True):
            followed = _furthest(inputs.flatten(1), layer.weight, followed)
            found.append(followed)
    return found


def _furthest(x: Tensor, w: Tensor, units: Tensor) -> Tensor:
    """argmax_i |x_bi - w_oi| for the units o = units[b, k]: x [B, I], w [O, I], units [B, K] -> [B, K]."""
    return torch.stack([(x - w[column]).abs().argmax(1) for column in units.T], 1)
