"""Running means collected anew, for nets whose neurons compute something else in training than in evaluation."""

import torch
from torch import nn

from lib.nets.layers import MeanShift
from lib.training.data import Images, batch

CHUNK = 1000  # images at a time


@torch.no_grad()
def center_(net: nn.Module, images: Images) -> None:
    """Sets every running mean to the average over `images` of what its layer gives at p = inf in evaluation mode.

    As in the released code of SortNet: one pass in order, each chunk shifted by its own means on the way, the running
    means averaging over the images seen so far. The net comes back in evaluation mode; no draw is made.
    """
    shifts = [module for module in net.eval().modules() if isinstance(module, MeanShift)]
    momenta = [shift.momentum for shift in shifts]
    try:
        for first, indices in enumerate(torch.arange(len(images), device=images.labels.device).split(CHUNK)):
            for shift in shifts:
                shift.training, shift.momentum = True, len(indices) / (first * CHUNK + len(indices))
            net(batch(images, indices))
    finally:
        for shift, momentum in zip(shifts, momenta, strict=True):
            shift.training, shift.momentum = False, momentum
