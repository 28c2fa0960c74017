"""What is drawn in training: the order of the images, crops and flips.

Every draw is a function of (seed, epoch, step), made on the CPU: the same on every device, and nothing to restore
after an interruption.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lib.recipes import Recipe
from lib.training.data import batch
from lib.training.datasets import Images


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The permutation [n] in which epoch `epoch` goes through n images."""
    return torch.randperm(n, generator=_generator(seed, epoch), device="cpu")


def step_generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """The CPU generator of all draws of one training step; `step` counts from 0 in its epoch."""
    return _generator(seed, epoch, step)


def training_batch(images: Images, recipe: Recipe, indices: Tensor, generator: torch.Generator) -> Tensor:
    """The images at int64 indices [B], cut and mirrored as the recipe says: float32 [B, C, H, W] in [0, 1]."""
    return augment(
        batch(images, indices),
        crop_padding=recipe.crop_padding,
        crop_edge=recipe.crop_edge,
        flip=recipe.flip,
        size=recipe.input_shape[1:],
        generator=generator,
    )


def augment(
    x: Tensor,
    *,
    crop_padding: int,
    crop_edge: bool = False,
    flip: bool,
    generator: torch.Generator,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Random crops after padding by `crop_padding` pixels and random horizontal flips, one draw per image.

    Args:
        x: [B, C, H, W] on any device.
        crop_padding: pixels added on each side, at least 0.
        crop_edge: whether the added pixels repeat those of the border; else they are black.
        size: height and width of the crop, both smaller than those of x by the same number; default those of x.
        flip: whether to mirror each image with probability 1/2.
        generator: on the CPU, see `step_generator`; under DDP augment the whole batch before splitting it.
    """
    # non_blocking: the copy is queued while a GPU may still be in the step before
    height, width = size or x.shape[2:]
    slack = 2 * crop_padding + x.shape[2] - height
    if slack:
        offsets = torch.randint(slack + 1, (2, len(x)), generator=generator, device="cpu")
        offsets = offsets.to(x.device, non_blocking=True)
        x = _crop(_pad(x, crop_padding, crop_edge), offsets, height, width)
    if flip:
        mirrored = torch.randint(2, (len(x), 1, 1, 1), generator=generator, device="cpu").bool()
        mirrored = mirrored.to(x.device, non_blocking=True)
        x = torch.where(mirrored, x.flip(3), x)
    return x


def _pad(x: Tensor, width: int, edge: bool) -> Tensor:
    return F.pad(x, [width] * 4, mode="replicate" if edge else "constant")


def _crop(padded: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(padded), device=padded.device), :, offsets[0], offsets[1]]


def _generator(seed: int, *place: int) -> torch.Generator:
    state = np.random.SeedSequence(seed, spawn_key=place).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
