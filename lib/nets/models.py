"""The nets of Tables 5 and 8, and the ordinary one of IBP: each takes pixels, normalises them, and gives logits."""

import itertools
import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from lib.nets.arguments import integer
from lib.nets.base import CompositeNet, PlainNet
from lib.nets.box import Box
from lib.nets.head import MLPHead
from lib.nets.layers import LInfDist, LInfDistConv2d
from lib.nets.relunet import ReLUHead
from lib.nets.sortnet import SortNet
from lib.recipes import Recipe


class LInfDistNet(PlainNet):
    """The l_inf-dist net (Eq. 3, Table 5): depth distance layers, logits = -(output of the last).

    Args:
        input_shape: (C, H, W).
        num_classes: K.
        width: units of each hidden layer.
        depth: distance layers, the top one included.
        mean, std: of the pixels; mean is one number or one per channel. Not in the state_dict; `lib.save` keeps them.
        identity: see `LInfDist`.
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
        identity: float = 10.0,
    ) -> None:
        sizes, numbers = {"width": width, "depth": depth}, {"identity": identity}
        super().__init__(input_shape, num_classes, mean, std, sizes=sizes, numbers=numbers)
        widths = _widths(self.input_shape, width, depth - 1)
        self.layers = _dense(widths, identity)
        self.top = LInfDist(widths[-1], num_classes, bias=True, mean_shift=False, identity=identity)


class LInfDistNetMLP(CompositeNet):
    """The composite net g(f(x)) (Section 6, Table 5): depth distance layers, then FC(hidden), tanh, FC(K).

    Args:
        input_shape, num_classes, width, mean, std, identity: as in `LInfDistNet`.
        depth: distance layers, all of them in f.
        hidden: width of the head's hidden layer.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int,
        depth: int,
        hidden: int = 512,
        mean: float | Iterable[float] = 0.0,
        std: float = 1.0,
        identity: float = 10.0,
    ) -> None:
        sizes, numbers = {"width": width, "depth": depth, "hidden": hidden}, {"identity": identity}
        super().__init__(input_shape, num_classes, mean, std, sizes=sizes, numbers=numbers)
        widths = _widths(self.input_shape, width, depth)
        self.layers = _dense(widths, identity)
        self.head = MLPHead(widths[-1], hidden, num_classes)


class ConvLInfDistNetMLP(CompositeNet):
    """The convolutional composite net of Table 8: five 3 x 3 distance convolutions, dist(hidden), then the head.

    Channels are width, width, 2 width (stride 2), 2 width, 2 width; padding 1 (which the 566M FLOPs need).

    Args:
        input_shape, num_classes, mean, std, identity: as in `LInfDistNet`.
        width: channels of the first convolution.
        hidden: width of the dense distance layer and of the head's hidden layer.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int = 128,
        hidden: int = 512,
        mean: float | Iterable[float] = 0.0,
        std: float = 1.0,
        identity: float = 10.0,
    ) -> None:
        sizes, numbers = {"width": width, "hidden": hidden}, {"identity": identity}
        super().__init__(input_shape, num_classes, mean, std, sizes=sizes, numbers=numbers)
        channels, height, breadth = self.input_shape
        plan = [(channels, width, 1), (width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)]
        plan.append(plan[-1])
        convolutions = [LInfDistConv2d(i, o, 3, stride=s, padding=1, identity=identity) for i, o, s in plan]
        flat = 2 * width * math.ceil(height / 2) * math.ceil(breadth / 2)
        self.layers = nn.ModuleList([*convolutions, LInfDist(flat, hidden, identity=identity)])
        self.head = MLPHead(hidden, hidden, num_classes)


class ReLUNet(CompositeNet):
    """An ordinary network, as interval bound propagation trains it (IBP, Gowal et al. 2018): pixels are its features.

    Args:
        input_shape, num_classes, mean, std: as in `LInfDistNet`.
        width: channels of the first convolution; later ones have as many or twice as many.
        depth: affine layers, two dense ones at the end and ReLU between all: 4 with two 4 x 4 convolutions of stride 2
            before them, 7 with five of 3 x 3, the third of stride 2 (the net of Table 1's IBP rows at width 64, hidden
            512).
        hidden: units of the first dense layer.

    Raises:
        ValueError: as `ReLUHead`.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int,
        depth: int,
        hidden: int,
        mean: float | Iterable[float] = 0.0,
        std: float = 1.0,
    ) -> None:
        asked = {"width": width, "depth": depth, "hidden": hidden}
        sizes = {name: integer(name, size, at_least=1) for name, size in asked.items()}
        super().__init__(input_shape, num_classes, mean, std, sizes=sizes, numbers={})
        self.layers = nn.ModuleList()
        self.head = ReLUHead(self.input_shape, self.num_classes, **sizes)

    def reach(self, features: Tensor, eps: float) -> Box:
        """The valid images within eps, in network units."""
        black, white = (self.features(features.new_full((1, *self.input_shape), end)) for end in (0.0, 1.0))
        return super().reach(features, eps).map(lambda v: v.clamp(black, white))


Net = LInfDistNet | SortNet | LInfDistNetMLP | ConvLInfDistNetMLP | ReLUNet


def build(recipe: Recipe, seed: int | None = None) -> Net:
    """The net of a recipe, with weights drawn from torch's global generator.

    Where a seed is given they are drawn from that, on the CPU, and the generator stays where it is.
    """
    if seed is not None:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)  # those of GPUs stay where they are
            return build(recipe)
    shape, classes, width = recipe.input_shape, recipe.classes, recipe.width
    common: dict[str, Any] = {"mean": recipe.mean, "std": recipe.std, "identity": recipe.identity}
    match recipe.model:
        case "linf-dist-net":
            return LInfDistNet(shape, classes, width=width, depth=recipe.depth, **common)
        case "sortnet":
            keep_prob = cast(float, recipe.keep_prob)
            return SortNet(shape, classes, width=width, depth=recipe.depth, keep_prob=keep_prob, **common)
        case "linf-dist-net-mlp":
            return LInfDistNetMLP(shape, classes, width=width, depth=recipe.depth, hidden=recipe.hidden, **common)
        case "conv-linf-dist-net-mlp":
            return ConvLInfDistNetMLP(shape, classes, width=width, hidden=recipe.hidden, **common)
        case "relu-net":
            sizes = {"width": width, "depth": recipe.depth, "hidden": recipe.hidden}
            return ReLUNet(shape, classes, mean=recipe.mean, std=recipe.std, **sizes)


def _widths(input_shape: tuple[int, int, int], width: int, hidden_layers: int) -> list[int]:
    return [math.prod(input_shape)] + [width] * hidden_layers


def _dense(widths: list[int], identity: float) -> nn.ModuleList:
    return nn.ModuleList(LInfDist(i, o, identity=identity) for i, o in itertools.pairwise(widths))
