"""What Appendix C and Section 5 set apart: AdderNet's l_1 neurons, and the batch norm that they need."""

import itertools
import math
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from lib.nets.base import PlainNet
from lib.nets.box import Box
from lib.nets.layers import LInfDist
from lib.nets.models import LInfDistNet
from lib.nets.normalisation import MeanShift

Plain = TypeVar("Plain", bound=PlainNet)


class BatchNorm(MeanShift):
    """(y - mu) / sqrt(var + 1e-5) per unit: mean shift, and then the scale that a distance net cannot afford.

    In training mu and var are those of the batch, and gradients flow through both; in evaluation they are running
    averages, so the layer is affine, and stretches by up to `stretch`.

    Args:
        features: units.
        momentum: weight of the newest batch in both averages; running_var starts at 1.
    """

    running_var: Tensor

    def __init__(self, features: int, momentum: float = 0.1) -> None:
        super().__init__(features, momentum)
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, y: Tensor, p: float = math.inf) -> Tensor:
        """y [B, features], normalised; p is not used."""
        centered = super().forward(y)
        if not self.training:
            return centered / self._deviation(self.running_var)
        variance = centered.square().mean(0)
        with torch.no_grad():
            self.running_var.lerp_(variance, self.momentum)
        return centered / self._deviation(variance)

    def bounds(self, box: Box) -> Box:
        """Increasing in every unit, so the ends bound the image: intervals survive batch norm, Fact 3.4 does not."""
        return super().bounds(box).map(lambda y: y / self._deviation(self.running_var))

    def stretch(self) -> float:
        """max_k 1 / sqrt(var_k + 1e-5), the Lipschitz constant of the layer with respect to l_inf."""
        return (1 / self._deviation(self.running_var)).amax().item()

    @staticmethod
    def _deviation(variance: Tensor) -> Tensor:
        return (variance + 1e-5).sqrt()


def with_batch_norm(net: Plain) -> Plain:
    """The same net, a fresh `BatchNorm` put in place of each mean shift: Fact 3.4 no longer holds for it."""
    for layer in net.layers:
        if isinstance(layer, LInfDist):
            layer.shift = BatchNorm(layer.weight.shape[0]).to(layer.weight).train(layer.training)
    return net


def batch_norm_bound(net: LInfDistNet) -> float:
    """prod_l max_k 1 / sqrt(var_k + 1e-5): the Lipschitz constant at p = inf that batch norm leaves to be promised."""
    return math.prod(module.stretch() for module in net.modules() if isinstance(module, BatchNorm))


class AdderLayer(LInfDist):
    """A distance layer of l_1 distances, whatever p it is called with.

    Args: as in `LInfDist`.
    """

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, ...] of d_in features in all -> [B, d_out]; p is not used."""
        return super().forward(x, 1.0)

    def bounds(self, box: Box) -> Box:
        """Refused with a ValueError: what is computed for a box are the bounds of p = inf."""
        raise ValueError("an AdderNet is evaluated at p = 1, expected a net that is evaluated at p = inf to bound")


class AdderNet(PlainNet):
    """AdderNet's neurons in the place of ours: l_1 distances, each hidden layer followed by batch norm (Appendix C).

    Every layer computes -||x - w||_1 up to a sign, which the weights of the next layer take up. AdderNet's modified
    backward pass, its learning rates by layer and the affine part of its batch norm are left out: Adam scales each
    weight's step by itself.

    Args: as in `LInfDistNet`.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int,
        depth: int,
        mean: float | Iterable[float] = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__(input_shape, num_classes, mean, std, sizes={"width": width, "depth": depth}, numbers={})
        widths = [math.prod(self.input_shape)] + [width] * (depth - 1)
        self.layers = nn.ModuleList(AdderLayer(i, o, identity=0.0) for i, o in itertools.pairwise(widths))
        self.top = AdderLayer(widths[-1], num_classes, bias=True, mean_shift=False, identity=0.0)
        with_batch_norm(self)
