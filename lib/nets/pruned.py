"""The layers of a pruned net: valid on the box they were made for alone, with unchanged constants, inside their net.

Nothing looks at the values that reach a hidden layer, which would cost a third of its time. They lie in its box because
of what they come through: valid pixels, and then the very layers that the net was pruned with.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib.nets.box import Box, check_ends
from lib.nets.layers import LInfDist
from lib.nets.normalisation import Normalize
from lib.ops import linf_dist_bounds
from lib.ops.checks import has_tangent
from lib.ops.shortlists import joined, of_pixels, shortlists
from lib.ops.sparse import linf_dist as sparse_dist
from lib.ops.sparse import linf_dist_bounds as sparse_dist_bounds

_CHANGED = (
    "a pruned net must keep its layers, weights, biases, running means, mean and std, got changed ones: "
    "change the net it was made from, and prune again"
)


class Sealed(nn.Module, ABC):
    """A part of a pruned net: right for the constants it was made with, and refusing to run with any others.

    Another device and float64 hold the same values, so it may move; a smaller type would round them.

    Attributes:
        together: all parts of the net from the pixels up, itself included, in whose company alone it is right.
    """

    together: list[nn.Module]
    _seal: object  # what the constants were

    @abstractmethod
    def _constants(self) -> object:
        """What stands for the constants: equal as long as they are, and cheap to look at in every call."""

    def check_constants(self) -> None:
        """Raises ValueError where a constant is not what it was."""
        if self._constants() != self._seal:
            raise ValueError(_CHANGED)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.check_constants()
        dtype = fn(torch.empty(1, device="cpu")).dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"a pruned net must stay float32 or float64, got {dtype}: use the net it was made from")
        before = [tensor.detach() for tensor in (*self.parameters(), *self.buffers())]
        with torch.inference_mode(False):  # whose tensors count no writes
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for old, new in zip(before, (*self.parameters(), *self.buffers()), strict=True):  # to_empty keeps no value
            if not torch.equal(new.to(old), old):
                raise ValueError(_CHANGED)
        self._seal = self._constants()
        return self

    def __getstate__(self) -> dict[str, Any]:
        self.check_constants()  # a copy of a changed net would pass for an unchanged one
        return {name: value for name, value in self.__dict__.items() if name != "_seal"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._seal = self._constants()


class PrunedDist(Sealed, LInfDist):
    """A distance layer at p = inf that equals `layer` on a box of inputs and visits only the weights that count there.

    float32 on the CPU without gradients runs over shortlists of the weights; anything else runs the whole layer, which
    gives the same values. Weights, bias and running mean are constants, and a layer whose constants were changed is
    refused. Whether inputs lie in the box is the caller's affair; a net runs it among the parts it was made for alone.

    Args:
        layer: the layer to replace, in float32 on the CPU.
        box: bounds [1, d_in] of all its inputs.
        read: the outputs that count, bool [d_out]; any other one is constant, its least value over the box.
    """

    def __init__(self, layer: LInfDist, box: Box, read: Tensor) -> None:
        nn.Module.__init__(self)  # LInfDist's own would draw weights
        self.weight, self.bias, self.shift = layer.weight, layer.bias, layer.shift
        floor = linf_dist_bounds(box.lower, box.upper, layer.weight)[0][0]
        above, below = box.upper - layer.weight, layer.weight - box.lower
        above[~read], below[~read] = 0, 0
        self.lists = shortlists(layer.weight, above, below, floor, *self._offsets())
        self.together = []
        self._seal = self._constants()

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, ...] of d_in features in all -> [B, d_out]; ValueError for finite p and in training mode."""
        self.check_call(p)
        return sparse_dist(x.flatten(1), self.lists)[0] if lists_take([self], x) else super().forward(x, p)

    def bounds(self, box: Box) -> Box:
        """Bounds over a box inside the one the layer was made for."""
        self.check_constants()
        check_ends(box)
        if not lists_take([self], *box):
            return super().bounds(box)
        return Box(*sparse_dist_bounds(box.lower.flatten(1), box.upper.flatten(1), self.lists))

    def kept(self) -> Tensor:
        """Whether each weight is kept, bool [d_out, d_in]."""
        return self.lists.kept()

    def check_call(self, p: float) -> None:
        """Raises ValueError for finite p, in training mode, and where a constant is not what it was."""
        if p != math.inf:
            raise ValueError(f"a pruned net is the net at p = inf, got p = {p}: use the net it was made from")
        if self.training or (self.shift is not None and self.shift.training):
            raise ValueError("a pruned net must be in evaluation mode, got training mode (call net.eval())")
        self.check_constants()

    def _constants(self) -> object:
        bias, shift = self.bias, self.shift
        return (
            _Memory(self.weight),
            bias is not None and _values(bias),
            shift is not None and _values(shift.running_mean),
        )

    def _offsets(self) -> tuple[Tensor, Tensor]:
        """What is added to a distance and what is then subtracted, [d_out] each."""
        none = self.weight.new_zeros(len(self.weight))
        return (
            none if self.bias is None else self.bias.detach(),
            none if self.shift is None else self.shift.running_mean,
        )


def lists_take(layers: Sequence[PrunedDist], *ends: Tensor) -> bool:
    """Whether lists can take these batches: float32 on the CPU, not differentiated, of as many features."""
    tensors = [*ends, *(layer.weight for layer in layers)]
    plain = all(each.device.type == "cpu" and each.dtype is torch.float32 for each in tensors)
    differentiated = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    differentiated |= any(map(has_tangent, tensors))
    features = layers[0].weight.shape[1]
    return plain and not differentiated and all(len(x) > 0 and x[0].numel() == features for x in ends)


class _Memory:
    """The fingerprint of weights that are too many to be compared: their memory, and torch's count of writes to it.

    What is written through `.data`, NumPy or a fused optimiser torch does not count, nor anything in a copy made in
    inference mode; the shortlists still give the net that was pruned.
    """

    def __init__(self, weight: Tensor) -> None:
        self.tensor = weight.detach()  # keeps its memory from being reused
        self.writes = None if weight.is_inference() else weight._version

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Memory) and self.writes == other.writes and self.tensor.is_set_to(other.tensor)


def _values(tensor: Tensor) -> tuple[torch.Size, bytes]:
    return tensor.shape, tensor.detach().cpu().numpy().tobytes()


class ValidPixels(Sealed, Normalize):
    """`Normalize` for a net that is right on valid images only: refuses pixels outside [0, 1], and another mean or std.

    Args:
        normalize: the layer to replace.
        layers: the pruned layers behind it, all of the net.
    """

    def __init__(self, normalize: Normalize, layers: list[PrunedDist]) -> None:
        nn.Module.__init__(self)
        self.std = normalize.std
        self.together = []
        self.register_buffer("mean", normalize.mean, persistent=False)
        mean = self.mean.flatten().repeat_interleave(layers[0].weight.shape[1] // self.mean.numel())
        self.lists = of_pixels(joined([layer.lists for layer in layers]), mean, self.std)
        self._seal = self._constants()

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, C, H, W] in [0, 1] -> the same shape in network units; ValueError for other values, NaN included."""
        self.check_constants()
        self.check_pixels(bool(((x >= 0) & (x <= 1)).all()), x)
        return super().forward(x, p)

    @staticmethod
    def check_pixels(valid: bool, *images: Tensor) -> None:
        """Raises ValueError, with the values that there are, unless it is said that all pixels are valid."""
        if not valid:
            low, high = (end.item() for end in torch.cat(images).aminmax())
            raise ValueError(f"a pruned net needs pixels in [0, 1], got values from {low} to {high}")

    def _constants(self) -> object:
        return self.std, _values(self.mean)


def check_together(parts: list[nn.Module]) -> None:
    """Refuse parts of pruned nets in other company than they were made for.

    Args:
        parts: all parts of a net from the pixels up.

    Raises:
        ValueError: a part of a pruned net among others than those it was pruned with.
    """
    for part in parts:
        if isinstance(part, Sealed) and part.together != parts:
            raise ValueError(_CHANGED)
