"""What a training step minimises: the loss of a recipe on a batch, with what is learned beside the net."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from lib.recipes import Recipe
from lib.training.losses import clipped_hinge_loss, hinge_loss, ibp_loss
from lib.training.schedules import Knobs


class Hinge(nn.Module):
    """The multi-class hinge of a plain net; theta in pixels."""

    def __init__(self, theta: float, mix: float) -> None:
        super().__init__()
        self.theta, self.mix = theta, mix

    def forward(self, net: Any, x: Tensor, y: Tensor, knobs: Knobs) -> tuple[Tensor, Tensor]:
        """(logits [B, K], loss) of the images x [B, C, H, W]."""
        logits = net(x, knobs.p)
        return logits, hinge_loss(logits, y, self.theta / net.std, self.mix)


class ClippedHinge(nn.Module):
    """Scaled cross-entropy plus clipped hinge of a plain net, and the scale s that it learns; theta in pixels."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = theta
        self.logit_scale = nn.Parameter(torch.ones((), device="cpu"))

    def forward(self, net: Any, x: Tensor, y: Tensor, knobs: Knobs) -> tuple[Tensor, Tensor]:
        """(logits [B, K], loss) of the images x [B, C, H, W]."""
        logits = net(x, knobs.p)
        return logits, clipped_hinge_loss(logits, y, self.theta / net.std, knobs.ce_weight, self.logit_scale)


class WorstCase(nn.Module):
    """The IBP loss of a composite net, on the box that its features cannot leave within eps (Section 6)."""

    def forward(self, net: Any, x: Tensor, y: Tensor, knobs: Knobs) -> tuple[Tensor, Tensor]:
        """(logits [B, K], loss) of the images x [B, C, H, W]."""
        z = net.features(x, knobs.p)
        logits = net.head(z)
        return logits, ibp_loss(logits, net.head.ibp_margin(net.reach(z, knobs.eps), y), y, knobs.kappa)


def make_objective(recipe: Recipe) -> nn.Module:
    """The objective of a recipe; called with (net, x, y, knobs) it gives the logits and the loss."""
    match recipe.loss:
        case "hinge":
            return Hinge(cast(float, recipe.theta), cast(float, recipe.hinge_mix))
        case "clipped-hinge":
            return ClippedHinge(cast(float, recipe.theta))
        case "ibp":
            return WorstCase()
