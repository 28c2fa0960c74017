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
The terms of either side stand in the order of u_i - w_i, or w_i - l_i: once the samples at hand have reached what the
next one can be at most, the rest of that side cannot be larger either, and is not looked at.

By induction the box of the next layer holds everything this layer can execute. A unit that no kept term of the next
layer reads may have any value. (After training L is large: few terms remain, and never both of a weight.)
"""

import copy
from typing import TypeVar, cast

import torch
from torch import nn

from lib.nets.box import Box
from lib.nets.checks import check_float32, check_neurons, check_parts, kind_of
from lib.nets.layers import LInfDist
from lib.nets.models import LInfDistNet, LInfDistNetMLP
from lib.nets.pruned import PrunedDist, Sealed, ValidPixels

Prunable = TypeVar("Prunable", LInfDistNet, LInfDistNetMLP)


def prune(net: Prunable) -> Prunable:
    """An equal net that visits only the weights that can matter for some image in [0, 1] (theorem above).

    Logits at p = inf are equal on every valid image, and `bounds` on every box of valid images, bit for bit in float32
    (but for the sign of a zero); so are the interval certificates. The result is a copy, frozen, in evaluation mode, of
    the same class: it is certified, attacked by "pgd" and saved as the net it was made from (the file holds all
    weights; prune again after loading). The stronger attack needs finite p, and so that net itself. Hidden units that
    nobody reads have constant activations. Its kernels are compiled in its first call, which should not be one by
    torch.compile.

    Args:
        net: a net of dense distance layers in evaluation mode and float32.

    Raises:
        ValueError: hooks, training mode, weights that are not finite. The pruned net in turn refuses finite p,
            training mode, images or boxes that leave [0, 1], types smaller than float32, and layers, weights, biases,
            running means or a normalisation changed since. Writes to weights that torch does not count (through
            `.data`, NumPy or a fused optimiser) go unnoticed: shortlists, and so certificates, keep the old weights;
            gradients, other precisions and `save` take the new ones.
        TypeError: another kind of net, other layers, replaced methods, weights that are not float32.
    """
    _check(net)
    with torch.inference_mode(False):  # whose tensors count no writes
        return _pruned(copy.deepcopy(net).cpu().requires_grad_(False)).to(next(net.parameters()).device)


def _pruned(net: Prunable) -> Prunable:
    """The net with its parts replaced, in evaluation mode."""
    dense = cast(list[LInfDist], net.distance_layers())
    boxes, layers = _boxes(net, dense), list[PrunedDist]()
    read = dense[-1].weight.new_ones(len(dense[-1].weight), dtype=torch.bool)
    for layer, box in zip(reversed(dense), reversed(boxes), strict=True):
        layers.insert(0, PrunedDist(layer, box, read))
        read = layers[0].kept().any(0)
    net.layers = nn.ModuleList(layers[: len(net.layers)])
    if isinstance(net, LInfDistNet):
        net.top = layers[-1]
    net.normalize = ValidPixels(net.normalize, layers)
    parts = net.parts()
    for part in parts:
        cast(Sealed, part).together = parts
    return net.eval()


def _boxes(net: LInfDistNet | LInfDistNetMLP, layers: list[LInfDist]) -> list[Box]:
    """What each layer's inputs can be over all valid images, [1, d_in] each."""
    black = layers[0].weight.new_zeros(1, *net.input_shape)
    boxes = [net.normalize.bounds(Box(black, black + 1)).map(lambda v: v.flatten(1))]
    for layer in layers[:-1]:
        boxes.append(layer.bounds(boxes[-1]))
    return boxes


def _check(net: Prunable) -> None:
    if not isinstance(net, LInfDistNet | LInfDistNetMLP):
        raise TypeError(f"net must be an LInfDistNet or an LInfDistNetMLP to be pruned, got {kind_of(net)}")
    check_parts(net, "pruned")
    net.normalize.check()
    check_neurons(net.distance_layers())
    if any(module.training for module in net.modules()):
        raise ValueError("net must be in evaluation mode to be pruned, got training mode (call net.eval())")
    check_float32({**net.state_dict(), "normalize.mean": net.normalize.mean}, "pruned")
