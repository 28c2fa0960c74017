"""Running means collected anew, for nets whose neurons compute something else in training than in evaluation."""

import torch

from lib.nets.base import DistanceNet
from lib.training.data import batch, centre
from lib.training.datasets import Images

CHUNK = 1000  # images at a time; the result depends on it, since each chunk is shifted by its own means


@torch.no_grad()
def collect_running_means_(net: DistanceNet, images: Images) -> None:
    """Sets every running mean to the average over `images` of what its layer gives at p = inf in evaluation mode.

    As the released code of SortNet does, but for its crops and flips: one pass in order, each chunk shifted by its own
    means on the way, the running means averaging over the images seen so far. Of images larger than the net's it takes
    the middle. The net comes back in evaluation mode; no draw is made.
    """
    shifts = [layer.shift for layer in net.eval().distance_layers() if layer.shift is not None]
    momenta = [shift.momentum for shift in shifts]
    try:
        for number, indices in enumerate(torch.arange(len(images), device=images.labels.device).split(CHUNK)):
            for shift in shifts:
                shift.training, shift.momentum = True, len(indices) / (number * CHUNK + len(indices))
            net(centre(batch(images, indices), net.input_shape[1:]))
    finally:
        for shift, momentum in zip(shifts, momenta, strict=True):
            shift.training, shift.momentum = False, momentum
