"""The nets of Tables 5 and 8. Each carries its own normalisation: it takes pixels and gives logits."""

import itertools
import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from lib.nets.box import Box
from lib.nets.head import MLPHead
from lib.nets.layers import LInfDist, LInfDistConv2d, Normalize
from lib.recipes import Recipe


class DistanceNet(nn.Module):
    """What the nets share: normalisation, a stack of distance layers, and then a top that makes logits of it.

    Attributes:
        config: the arguments that build this net again, of plain types.
        input_shape, num_classes, std: as given; std turns a radius in network units into one in pixels.
        layers: the distance layers of the feature extractor f, without the top.
    """

    layers: nn.ModuleList

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        mean: float | Iterable[float],
        std: float,
        identity: float,
        **sizes: int,
    ) -> None:
        super().__init__()
        channels = input_shape[0]
        means = (float(mean),) * channels if isinstance(mean, int | float) else tuple(mean)
        _check(num_classes=num_classes, **sizes)
        if not (math.isfinite(std) and std > 0):
            raise ValueError(f"std must be a positive number, got {std}")
        if len(means) != channels:
            raise ValueError(f"mean must be one number or {channels} (one per channel), got {len(means)}")
        self.config = {"input_shape": list(input_shape), "num_classes": num_classes, "mean": list(means), "std": std}
        self.config |= {"identity": identity, **sizes}
        self.input_shape: tuple[int, int, int] = (input_shape[0], input_shape[1], input_shape[2])
        self.num_classes = num_classes
        self.std = std
        self.normalize = Normalize(means, std)

    def activations(self, x: Tensor, p: float = math.inf) -> list[Tensor]:
        """The normalised input and the output of every layer of f, the features last.

        Raises ValueError unless x is [B, C, H, W] with the net's own C, H, W.
        """
        self._check_shape("x", x)
        outputs = [self.normalize(x)]
        for layer in self._distance_layers():
            outputs.append(layer(outputs[-1], p))
        return outputs

    def features(self, x: Tensor, p: float = math.inf) -> Tensor:
        """f(x) [B, width]: the distance net below the top, not negated; x [B, C, H, W] in [0, 1]."""
        return self.activations(x, p)[-1].flatten(1)

    def feature_bounds(self, box: Box) -> Box:
        """Bounds [B, width] of `features` at p = inf over a box of images, sound for float32 as executed.

        Raises ValueError in training mode (the mean shift is no constant there) and for lower > upper.
        """
        if self.training:
            raise ValueError("bounds need a net in evaluation mode, got one in training mode (call net.eval())")
        self._check_shape("box", box.lower)
        if not (box.lower <= box.upper).all():
            raise ValueError("box must have lower <= upper everywhere, got a lower bound above its upper one, or NaN")
        box = self.normalize.bounds(box)
        for layer in self._distance_layers():
            box = layer.bounds(box)
        return box.map(lambda v: v.flatten(1))

    def magnitude(self, activations: list[Tensor]) -> Tensor:
        """max |v| [B] over all values executed on the way to the features, before and after every mean shift."""
        sizes = [activations[0].flatten(1).abs().amax(1)]
        for layer, output in zip(self._distance_layers(), activations[1:], strict=True):
            sizes.append(output.flatten(1).abs().amax(1) + layer.offset())
        return torch.stack(sizes).amax(0)

    def distance_weights(self) -> list[nn.Parameter]:
        """The weights of all distance neurons: what l_p decay acts on."""
        return [layer.weight for layer in self._distance_layers()]

    def other_parameters(self) -> list[nn.Parameter]:
        """Every other parameter: biases and head."""
        distance = {id(weight) for weight in self.distance_weights()}
        return [parameter for parameter in self.parameters() if id(parameter) not in distance]

    def _distance_layers(self) -> list[LInfDist | LInfDistConv2d]:
        return cast(list[LInfDist | LInfDistConv2d], list(self.layers))

    def _check_shape(self, name: str, x: Tensor) -> None:
        if x.dim() != 4 or tuple(x.shape[1:]) != self.input_shape:
            raise ValueError(f"{name} must be [B, {', '.join(map(str, self.input_shape))}], got {list(x.shape)}")


class LInfDistNet(DistanceNet):
    """The l_inf-dist net (Eq. 3, Table 5): depth distance layers, logits = -(output of the last).

    Args:
        input_shape: (C, H, W).
        num_classes: K.
        width: units of each hidden layer.
        depth: distance layers, the top one included.
        mean, std: of the pixels; mean is one number or one per channel.
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
        super().__init__(input_shape, num_classes, mean, std, identity, width=width, depth=depth)
        sizes = _sizes(input_shape, width, depth - 1)
        self.layers = _dense(sizes, identity)
        self.top = LInfDist(sizes[-1], num_classes, bias=True, mean_shift=False, identity=identity)

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, C, H, W] in [0, 1] -> logits [B, K]."""
        return -self.top(self.features(x, p), p)

    def bounds(self, box: Box) -> Box:
        """Bounds [B, K] of the logits at p = inf over a box of images; holds for every float32 execution."""
        top = self.top.bounds(self.feature_bounds(box))
        return Box(-top.upper, -top.lower)

    def distance_weights(self) -> list[nn.Parameter]:
        """The weights of all distance neurons, the top layer's included."""
        return [*super().distance_weights(), self.top.weight]


class LInfDistNetMLP(DistanceNet):
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
        super().__init__(input_shape, num_classes, mean, std, identity, width=width, depth=depth, hidden=hidden)
        sizes = _sizes(input_shape, width, depth)
        self.layers = _dense(sizes, identity)
        self.head = MLPHead(sizes[-1], hidden, num_classes)

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, C, H, W] in [0, 1] -> logits [B, K]."""
        return self.head(self.features(x, p))

    def bounds(self, box: Box) -> Box:
        """Bounds [B, K] of the logits at p = inf over a box of images; hold for every float32 execution."""
        return self.head.bounds(self.feature_bounds(box))


class ConvLInfDistNetMLP(DistanceNet):
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
        super().__init__(input_shape, num_classes, mean, std, identity, width=width, hidden=hidden)
        channels, height, breadth = input_shape
        plan = [(channels, width, 1), (width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)]
        plan.append(plan[-1])
        convolutions = [LInfDistConv2d(i, o, 3, stride=s, padding=1, identity=identity) for i, o, s in plan]
        flat = 2 * width * math.ceil(height / 2) * math.ceil(breadth / 2)
        self.layers = nn.ModuleList([*convolutions, LInfDist(flat, hidden, identity=identity)])
        self.head = MLPHead(hidden, hidden, num_classes)

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, C, H, W] in [0, 1] -> logits [B, K]."""
        return self.head(self.features(x, p))

    def bounds(self, box: Box) -> Box:
        """Bounds [B, K] of the logits at p = inf over a box of images; hold for every float32 execution."""
        return self.head.bounds(self.feature_bounds(box))


Net = LInfDistNet | LInfDistNetMLP | ConvLInfDistNetMLP


def build(recipe: Recipe) -> Net:
    """The net of a recipe, with weights drawn from torch's global generator."""
    shape, classes, width = recipe.input_shape, recipe.classes, recipe.width
    common: dict[str, Any] = {"mean": recipe.mean, "std": recipe.std, "identity": recipe.identity}
    match recipe.model:
        case "linf-dist-net":
            return LInfDistNet(shape, classes, width=width, depth=recipe.depth, **common)
        case "linf-dist-net-mlp":
            return LInfDistNetMLP(shape, classes, width=width, depth=recipe.depth, hidden=recipe.hidden, **common)
        case "conv-linf-dist-net-mlp":
            return ConvLInfDistNetMLP(shape, classes, width=width, hidden=recipe.hidden, **common)


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _sizes(input_shape: tuple[int, int, int], width: int, hidden_layers: int) -> list[int]:
    return [math.prod(input_shape)] + [width] * hidden_layers


def _dense(sizes: list[int], identity: float) -> nn.ModuleList:
    return nn.ModuleList(LInfDist(i, o, identity=identity) for i, o in itertools.pairwise(sizes))
