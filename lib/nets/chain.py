"""A net from the pixels up: how a batch, the sizes of its values, and a box pass through distance layers."""

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lib.nets.box import Box
from lib.nets.layers import DistanceLayer
from lib.nets.normalisation import Normalize
from lib.nets.pruned import PrunedDist, ValidPixels, check_together, lists_take
from lib.ops.shortlists import Shortlists
from lib.ops.sparse import linf_dist_bounds_of_pixels, linf_dist_of_pixels


class Chain:
    """A normalisation and then distance layers, each of which takes what the one before gives.

    Args:
        normalize: takes pixels [B, C, H, W].
        layers: those behind it, none or more.
    """

    def __init__(self, normalize: Normalize, layers: Sequence[DistanceLayer]) -> None:
        self.normalize, self.layers = normalize, layers

    def last(self, x: Tensor, p: float = math.inf) -> Tensor:
        """The output of the last layer."""
        v: Tensor = self.normalize(x)
        for layer in self.layers:  # one output at a time: all of them at once fill a memory
            v = layer(v, p)
        return v

    def outputs(self, x: Tensor, p: float = math.inf) -> list[Tensor]:
        """The normalised pixels, and then the output of each layer."""
        return list(itertools.accumulate(self.layers, lambda v, layer: layer(v, p), initial=self.normalize(x)))

    def sized(self, x: Tensor, p: float = math.inf) -> tuple[Tensor, Tensor]:
        """The output of the last layer, and max |v| [B] over all values executed, before and after every mean shift."""
        v: Tensor = self.normalize(x)
        sizes = [_largest_size(v)]
        for layer in self.layers:
            v = layer(v, p)
            sizes.append(_largest_size(v) + layer.offset())
        return v, torch.stack(sizes).amax(0)

    def bounds(self, box: Box) -> Box:
        """Bounds of the output of the last layer at p = inf in evaluation mode; hold for every float32 execution."""
        box = self.normalize.bounds(box)
        for layer in self.layers:
            box = layer.bounds(box)
        return box


class PrunedChain(Chain):
    """The layers of a pruned net in one kernel call, so that the activations of a few images stay in the cache."""

    normalize: ValidPixels
    layers: Sequence[PrunedDist]

    def last(self, x: Tensor, p: float = math.inf) -> Tensor:
        """The output of the last layer; raises what its layers raise."""
        return self._whole(x)[0] if self._fits(p, x) else super().last(x, p)

    def sized(self, x: Tensor, p: float = math.inf) -> tuple[Tensor, Tensor]:
        """The output of the last layer, and max |v| [B] over all values executed."""
        return self._whole(x) if self._fits(p, x) else super().sized(x, p)

    def bounds(self, box: Box) -> Box:
        """Bounds of the output of the last layer over a box of valid images."""
        if not self._fits(math.inf, *box):
            return super().bounds(box)
        lower, upper = (end.flatten(1) for end in box)
        least, greatest, valid = linf_dist_bounds_of_pixels(lower, upper, self._lists())
        self.normalize.check_pixels(valid, lower, upper)
        return Box(least, greatest)

    def _whole(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pixels = x.flatten(1)
        output, size, valid = linf_dist_of_pixels(pixels, self._lists())
        self.normalize.check_pixels(valid, pixels)
        return output, size

    def _fits(self, p: float, *ends: Tensor) -> bool:
        self.normalize.check_constants()
        for layer in self.layers:
            layer.check_call(p)
        return (
            bool(self.layers)
            and lists_take(self.layers, *ends)
            and not any(map(_altered, (self.normalize, *self.layers)))
        )

    def _lists(self) -> Shortlists:
        return self.normalize.lists.of_first(len(self.layers))


def chain_of(normalize: Normalize, layers: list[DistanceLayer], parts: list[nn.Module]) -> Chain:
    """Some of the parts of a net as a chain, run as one where the net is pruned.

    Args:
        normalize, layers: the first parts of the net.
        parts: all of them.

    Raises:
        ValueError: a part of a pruned net among others than those it was pruned with.
    """
    check_together(parts)
    if isinstance(normalize, ValidPixels):
        return PrunedChain(normalize, cast(list[PrunedDist], layers))
    return Chain(normalize, layers)


def _altered(part: nn.Module) -> bool:
    """Whether a part is to be called as a module: it has hooks, or methods in place of those of its class."""
    return bool(part._forward_hooks or part._forward_pre_hooks or {"forward", "bounds"} & vars(part).keys())


def _largest_size(v: Tensor) -> Tensor:
    """max |v| [B] over all but the first dimension; the sizes of all entries, a copy of them, are never made."""
    v = v.flatten(1)
    return torch.maximum(v.amax(1), -v.amin(1))
