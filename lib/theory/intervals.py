"""Interval bounds, followed step by step (Section 6, Appendix B): what lies behind a certificate, not its verdict."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from lib.nets.base import CompositeNet, margin
from lib.nets.box import Box
from lib.nets.head import Linear, Tanh
from lib.nets.layers import LInfDist
from lib.nets.models import Net
from lib.nets.relunet import Conv2d, ReLU
from lib.robustness.inputs import evaluation_mode, pixel_box


class MarginBounds(NamedTuple):
    """Lower bounds [B] of the margin over the ball, each at least as large as the one before (a rounding aside).

    margin: Fact 3.6, the clean margin less 2 eps / std; with a head, its intervals on the box f(x) +- eps / std.
    unclipped: intervals through all layers from the whole ball. A distance layer maps a cube to a cube of equal size,
        less what is below 0, so this is the margin's bound wherever all distances exceed eps / std.
    clipped: intervals through all layers from the valid images of the ball.
    """

    margin: Tensor
    unclipped: Tensor
    clipped: Tensor


_STILL = 1e-3  # standard deviation of a unit that does not vary, in network units
_NAMES = {Linear: "affine", Conv2d: "convolution", Tanh: "tanh", ReLU: "relu"}


def follow(net: Net, box: Box) -> list[tuple[str, Box]]:
    """The box of images after each step of the net at p = inf, by name: pixels, layer 1, ..., logits.

    "pixels" is in network units. A plain net ends with its logits; a composite net goes on with "head: affine",
    "head: tanh" (a ReLU net with "head: convolution", "head: relu" and so on) and its logits, in float64, widened by
    what float32 can round.
    """
    with torch.no_grad(), evaluation_mode(net):
        boxes = [("pixels", net.normalize.bounds(box))]
        for number, layer in enumerate(net.layers, start=1):
            boxes.append((f"layer {number}", cast(LInfDist, layer).bounds(boxes[-1][1])))
        features = boxes[-1][1].map(lambda v: v.flatten(1))
        if isinstance(net, CompositeNet):
            behind = features
            for layer in net.head.hidden_layers():
                behind = layer.bounds(behind)
                boxes.append((f"head: {_NAMES[type(layer)]}", behind))
        return [*boxes, ("logits", net.logit_bounds(features))]


def relative_widths(net: Net, box: Box) -> list[tuple[str, float]]:
    """How wide the boxes of `follow` are beside how much their centres vary from image to image, step by step.

    Each is the median of half-width / standard deviation over the units that vary at all; at 1 the box of an image
    reaches as far as images typically lie from their mean.

    Args:
        net: a net of this library.
        box: around two images or more [B, C, H, W], and not all the same: NaN where no unit varies.
    """
    widths = []
    for name, behind in follow(net, box):
        spread = behind.center.flatten(1).std(0)
        share = behind.halfwidth.flatten(1).mean(0) / spread
        widths.append((name, share[spread > _STILL].median().item()))
    return widths


def margin_bounds(net: Net, x: Tensor, y: Tensor, eps: float) -> MarginBounds:
    """The three lower bounds of the margin of label y over the images within eps of x.

    One above 0 is what `lib.certify` looks for; it alone pays for the rounding of the margin, and decides.

    Args:
        net: a net of this library; a pruned one refuses the whole ball, most of which is no valid image.
        x: images [B, C, H, W] in [0, 1].
        y: labels [B].
        eps: radius in pixels, at least 0.
    """
    reach = eps / net.std
    with torch.no_grad(), evaluation_mode(net):
        features = net.features(x)
        if isinstance(net, CompositeNet):
            by_lipschitz = net.margin_lb(Box(features - reach, features + reach), y)
        else:
            by_lipschitz = margin(net.logits(features), y) - 2 * reach
        boxes = (net.feature_bounds(pixel_box(x, eps, clip=clip)) for clip in (False, True))
        return MarginBounds(by_lipschitz, *(net.margin_lb(box, y) for box in boxes))
