"""Interval bounds, followed step by step (Section 6, Appendix B): what lies behind a certificate, not its verdict."""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

from lib.nets.base import PlainNet
from lib.nets.box import Box
from lib.nets.head import MLPHead
from lib.nets.layers import LInfDist
from lib.nets.models import Net
from lib.robustness.inputs import evaluation_mode, pixel_box


class Leads(NamedTuple):
    """Lower bounds [B] of min over the ball of f_y - max_{i != y} f_i, each at least as large as the one before.

    margin: Fact 3.6, the clean lead less 2 eps / std; with a head, its intervals on the box f(x) +- eps / std.
    unclipped: intervals through all layers from the whole ball. A distance layer maps a cube to a cube of equal size,
        less what is below 0, so this is the margin's bound wherever all distances exceed eps / std.
    clipped: intervals through all layers from the valid images of the ball.
    """

    margin: Tensor
    unclipped: Tensor
    clipped: Tensor


def follow(net: Net, box: Box) -> list[tuple[str, Box]]:
    """The box of images after each step of the net at p = inf, by name: pixels, layer 1, ..., logits.

    "pixels" is in network units. A plain net ends with its logits; a composite net goes on with "fc1", "tanh" and its
    logits, in float64, widened by what float32 can round.
    """
    with torch.no_grad(), evaluation_mode(net):
        boxes = [("pixels", net.normalize.bounds(box))]
        for number, layer in enumerate(net.layers, start=1):
            boxes.append((f"layer {number}", cast(LInfDist, layer).bounds(boxes[-1][1])))
        last = boxes[-1][1].map(lambda v: v.flatten(1))
        if isinstance(net, PlainNet):
            top = net.top.bounds(last)
            return [*boxes, ("logits", Box(-top.upper, -top.lower))]
        hidden = net.head.fc1.bounds(last)
        squashed = net.head.tanh.bounds(hidden)
        return [*boxes, ("fc1", hidden), ("tanh", squashed), ("logits", net.head.fc2.bounds(squashed))]


def worst_leads(net: Net, x: Tensor, y: Tensor, eps: float) -> Leads:
    """The three lower bounds of the lead of label y over the images within eps of x.

    A lead above 0 is what `lib.certify` looks for; it alone pays for the rounding of the margin, and decides.

    Args:
        net: a net of this library.
        x: images [B, C, H, W] in [0, 1].
        y: labels [B].
        eps: radius in pixels, at least 0.
    """
    reach = eps / net.std
    with torch.no_grad(), evaluation_mode(net):
        if isinstance(net, PlainNet):
            logits = net(x)
            margin = smallest_lead(Box(logits, logits), y) - 2 * reach
            rest = [smallest_lead(net.bounds(pixel_box(x, eps, clip=clip)), y) for clip in (False, True)]
            return Leads(margin, *rest)
        features = net.features(x)
        boxes = [Box(features - reach, features + reach)]
        boxes += [net.feature_bounds(pixel_box(x, eps, clip=clip)) for clip in (False, True)]
        return Leads(*(merged_lead(net.head, box, y) for box in boxes))


def smallest_lead(logits: Box, y: Tensor) -> Tensor:
    """l_y - max_{i != y} u_i [B]: the plain difference of the bounds of two logits."""
    rivals = logits.upper.scatter(1, y[:, None], -math.inf).amax(1)
    return logits.lower.gather(1, y[:, None]).squeeze(1) - rivals


def merged_lead(head: MLPHead, features: Box, y: Tensor) -> Tensor:
    """-max_{i != y} mbar_i [B] with mbar of Eq. 21: the last affine layer bounds the difference itself."""
    with torch.no_grad():
        return -head.margin_ub(features, y).scatter(1, y[:, None], -math.inf).amax(1)
