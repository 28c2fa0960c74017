"""A trained net at p = inf needs only a part of its weights: exact pruning over the box of valid images.

Let every input of a unit lie in l_i <= x_i <= u_i, and let L = max_i max(l_i - w_i, w_i - u_i, 0), the least distance
that `linf_dist_bounds` gives over this box. All differences are the executed, rounded ones.

Theorem. For every x in the box, max_i |x_i - w_i| equals, bit for bit,

    max(L, max {x_i - w_i : u_i - w_i > L}, max {w_i - x_i : w_i - l_i > L}),

and over every box inside [l, u] the bounds of the distance are those of the right-hand side.

Proof. Rounding to nearest is monotone and odd. Hence x_i - w_i <= u_i - w_i and w_i - x_i <= w_i - l_i after rounding
too, so a term that is left out is at most L. And L is at most the distance: where L = l_i - w_i it is at most x_i - w_i
for the same i, where L = w_i - u_i at most w_i - x_i, and 0 at most any size. So the right-hand side replaces terms
of a maximum by a number between them and that maximum. Over a smaller box the least distance is the maximum of
0, l'_i - w_i and w_i - u'_i, and the greatest that of u'_i - w_i and w_i - l'_i: the terms that are left out are again
at most L, and both maxima are at least L, since l <= l' and u' <= u. QED

For the same reason a term may be left out for a batch of images, or of boxes, if it is at most L on all of them.
The terms of a unit stand in the order of u_i - w_i and w_i - l_i: once the samples at hand have reached what the next
one can be at most, the rest cannot be larger either, and is not looked at.

By induction the box of the next layer holds everything this layer can execute. A unit that no kept term of the next
layer reads may have any value. (After training L is large: few terms remain, and never both of a weight.)
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from lib.nets.box import Box
from lib.nets.layers import LInfDist, MeanShift, Normalize
from lib.nets.models import LInfDistNet, LInfDistNetMLP
from lib.ops import linf_dist_bounds
from lib.ops.sparse import Shortlists, narrowed, shortlists
from lib.ops.sparse import linf_dist as sparse_dist
from lib.ops.sparse import linf_dist_bounds as sparse_dist_bounds

Prunable = TypeVar("Prunable", LInfDistNet, LInfDistNetMLP)


class _Sealed(nn.Module, ABC):
    """A part of a pruned net: right for the constants it was made with, and refusing to run with any others.

    Another device and float64 hold the same values, so it may move; a smaller type would round them.
    """

    _seal: object  # what the constants were

    @abstractmethod
    def _constants(self) -> object:
        """What stands for the constants: equal as long as they are, and cheap to look at in every call."""

    def _check_constants(self) -> None:
        if self._constants() != self._seal:
            raise ValueError(
                "a pruned net must keep its weights, biases, running means, mean and std, got changed ones: "
                "change the net it was made from, and prune again"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._check_constants()
        dtype = fn(torch.empty(1)).dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"a pruned net must stay float32 or float64, got {dtype}: use the net it was made from")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._seal = self._constants()
        return self

    def __getstate__(self) -> dict[str, Any]:
        self._check_constants()  # a copy of a changed net would pass for an unchanged one
        return {name: value for name, value in self.__dict__.items() if name != "_seal"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._seal = self._constants()


class PrunedDist(_Sealed, LInfDist):
    """A distance layer at p = inf that equals `layer` on a box of inputs and visits only the weights that count there.

    float32 on the CPU without gradients runs over shortlists of the weights; anything else runs the whole layer, which
    gives the same values. Weights, bias and running mean are constants, and a layer whose constants were changed is
    refused.

    Args:
        layer: the layer to replace, in float32 on the CPU.
        box: bounds [1, d_in] of all its inputs.
        read: the outputs that count, bool [d_out]; any other one is constant, its least value over the box.
        narrow: whether to leave out, for a large batch, what cannot count in its own box: repays for pixels alone, many
            of which are black in all images of a batch.
    """

    def __init__(self, layer: LInfDist, box: Box, read: Tensor, *, narrow: bool = False) -> None:
        nn.Module.__init__(self)  # LInfDist's own would draw weights
        self.weight, self.bias, self.shift = layer.weight, layer.bias, layer.shift
        floor = linf_dist_bounds(box.lower, box.upper, layer.weight)[0][0]
        above, below = box.upper - layer.weight, layer.weight - box.lower
        above[~read], below[~read] = 0, 0
        self.lists, self.narrow = shortlists(layer.weight, above, below, floor), narrow
        self._seal = self._constants()

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, ...] of d_in features in all -> [B, d_out]; ValueError for finite p and in training mode."""
        if p != math.inf:
            raise ValueError(f"a pruned net is the net at p = inf, got p = {p}: use the net it was made from")
        if self.training:
            raise ValueError("a pruned net must be in evaluation mode, got training mode (call net.eval())")
        self._check_constants()
        if not self._fits(x):
            return super().forward(x, p)
        rows = x.flatten(1)
        return sparse_dist(rows, self._lists_within(rows, rows), *self._offsets())

    def bounds(self, box: Box) -> Box:
        """Bounds over a box inside the one the layer was made for."""
        self._check_constants()
        if not self._fits(box.lower):
            return super().bounds(box)
        ends = box.map(lambda v: v.flatten(1))
        return Box(*sparse_dist_bounds(*ends, self._lists_within(*ends), *self._offsets()))

    def kept(self) -> Tensor:
        """Whether each weight is kept, bool [d_out, d_in]."""
        return self.lists.kept(self.weight.shape[1])

    def _lists_within(self, lower: Tensor, upper: Tensor) -> Shortlists:
        return narrowed(self.lists, lower, upper) if self.narrow else self.lists

    def _fits(self, x: Tensor) -> bool:
        plain = x.device.type == "cpu" and x.dtype is self.weight.dtype is torch.float32
        differentiated = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        return plain and not differentiated and len(x) > 0 and x[0].numel() == self.weight.shape[1]

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


class _Memory:
    """Weights as they are, too many to be compared: equal while they lie in the same memory and nobody wrote there.

    What is written through `.data` or NumPy torch does not count; the shortlists still give the net that was pruned.
    """

    def __init__(self, weight: Tensor) -> None:
        self.tensor, self.writes = weight.detach(), weight._version  # the tensor keeps its memory from being reused

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Memory) and self.writes == other.writes and self.tensor.is_set_to(other.tensor)


def _values(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().numpy().tobytes()


class ValidPixels(_Sealed, Normalize):
    """`Normalize` for a net that is right on valid images only: refuses pixels outside [0, 1], and another mean or std.

    Args:
        normalize: the layer to replace.
    """

    def __init__(self, normalize: Normalize) -> None:
        nn.Module.__init__(self)
        self.std = normalize.std
        self.register_buffer("mean", normalize.mean, persistent=False)
        self._seal = self._constants()

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, C, H, W] in [0, 1] -> the same shape in network units; ValueError for other values, NaN included."""
        self._check_constants()
        if x.numel():
            low, high = (end.item() for end in x.aminmax())
            if not (low >= 0 and high <= 1):
                raise ValueError(f"a pruned net needs pixels in [0, 1], got values from {low} to {high}")
        return super().forward(x, p)

    def _constants(self) -> object:
        return self.std, _values(self.mean)


def prune(net: Prunable) -> Prunable:
    """An equal net that visits only the weights that can matter for some image in [0, 1] (theorem above).

    Logits at p = inf are equal on every valid image, and `bounds` on every box of valid images, bit for bit in float32
    (but for the sign of a zero); so are the interval certificates. The result is a copy, frozen, in evaluation mode, of
    the same class: it is certified, attacked by "pgd" and saved as the net it was made from (the file holds all
    weights; prune again after loading). The stronger attack needs finite p, and so that net itself. Hidden units that
    nobody reads have constant activations.

    Args:
        net: a net of dense distance layers in evaluation mode and float32.

    Raises:
        ValueError: a convolutional net or other layers, training mode, weights that are not finite. The pruned net in
            turn refuses finite p, training mode, images or boxes that leave [0, 1], types smaller than float32, and
            weights, biases, running means or a normalisation changed since.
        TypeError: weights that are not float32.
    """
    _check(net)
    pruned: Prunable = copy.deepcopy(net).cpu().requires_grad_(False)
    layers = cast(list[LInfDist], pruned.stack())
    boxes = _boxes(pruned, layers)
    read = torch.ones(len(layers[-1].weight), dtype=torch.bool)
    for n in reversed(range(len(layers))):
        sparse = PrunedDist(layers[n], boxes[n], read, narrow=n == 0)
        layers[n], read = sparse, sparse.kept().any(0)
    pruned.layers = nn.ModuleList(layers[: len(pruned.layers)])
    if isinstance(pruned, LInfDistNet):
        pruned.top = layers[-1]
    pruned.normalize = ValidPixels(pruned.normalize)
    return pruned.eval().to(next(net.parameters()).device)


def _boxes(net: LInfDistNet | LInfDistNetMLP, layers: list[LInfDist]) -> list[Box]:
    """What each layer's inputs can be over all valid images, [1, d_in] each."""
    black = torch.zeros(1, *net.input_shape)
    boxes = [net.normalize.bounds(Box(black, black + 1)).map(lambda v: v.flatten(1))]
    for layer in layers[:-1]:
        boxes.append(layer.bounds(boxes[-1]))
    return boxes


def _check(net: nn.Module) -> None:
    if not isinstance(net, LInfDistNet | LInfDistNetMLP):
        raise ValueError(f"net must be an LInfDistNet or an LInfDistNetMLP to be pruned, got {type(net).__name__}")
    shifts = [child for layer in net.stack() for child in layer.children()]
    for part in (net.normalize, *net.stack(), *shifts):
        if type(part) not in (Normalize, ValidPixels, LInfDist, PrunedDist, MeanShift):
            raise ValueError(
                "net must be made of l_inf-dist neurons, mean shifts and a normalisation to be pruned, "
                f"got a {type(part).__name__}"
            )
    if net.training:
        raise ValueError("net must be in evaluation mode to be pruned, got training mode (call net.eval())")
    for name, tensor in net.state_dict().items():
        if tensor.dtype is not torch.float32:
            raise TypeError(f"net must be float32 to be pruned, got {tensor.dtype} in {name}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"net must have finite weights to be pruned, got a non-finite entry in {name}")
