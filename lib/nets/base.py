"""What all nets share: normalisation, a stack of distance layers, a top, and how values and boxes pass through."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lib.nets.arguments import integer, real
from lib.nets.box import Box, check_ends
from lib.nets.chain import Chain, chain_of
from lib.nets.head import Head
from lib.nets.layers import DistanceLayer, LInfDist
from lib.nets.normalisation import Normalize
from lib.ops.checks import check_tensors

FLUSHED = 2.0**-123  # more than an operation moves two logits apart by flushing float32 denormals


class Execution(NamedTuple):
    """One forward pass of a batch.

    outputs: of the last distance layer, [B, units]. logits: [B, K]. size: max |v| [B] over all values executed on the
    way to the outputs and over these, before and after every mean shift.
    """

    outputs: Tensor
    logits: Tensor
    size: Tensor


class DistanceNet(nn.Module, ABC):
    """What the nets share: normalisation, a stack of distance layers, and then a top that makes logits of it.

    A kind of net says by `logits`, `logit_bounds` and `margin_lb` what its top is. The state_dict holds weights and
    running means alone: mean, std and the `keep_prob` of a SortNet are arguments, which `lib.save` and `lib.load` keep.

    Args:
        input_shape: (C, H, W).
        num_classes: K.
        mean, std: of the pixels; mean is one number or one per channel.
        sizes, numbers: the other arguments of a kind of net, by name: integers of at least 1, and finite numbers.

    Attributes:
        config: the arguments that build this net again, of plain types.
        input_shape, num_classes: as given.
        layers: the distance layers of the feature extractor f, without the top.
    """

    layers: nn.ModuleList

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        mean: float | Iterable[float],
        std: float,
        *,
        sizes: Mapping[str, int],
        numbers: Mapping[str, float],
    ) -> None:
        super().__init__()
        shape, whole = _shape(input_shape), {name: integer(name, size, at_least=1) for name, size in sizes.items()}
        classes = integer("num_classes", num_classes, at_least=2)
        means, std = _means(mean, shape[0]), real("std", std)
        if std <= 0:
            raise ValueError(f"std must be a positive number, got {std}")
        own = {name: real(name, number) for name, number in numbers.items()} | whole
        self.config = {"input_shape": list(shape), "num_classes": classes, "mean": list(means), "std": std, **own}
        self.input_shape, self.num_classes = shape, classes
        self.normalize = Normalize(means, std)

    @property
    def std(self) -> float:
        """Of the normalisation: a radius in network units times std is one in pixels."""
        return self.normalize.std

    @abstractmethod
    def logits(self, features: Tensor, p: float = math.inf) -> Tensor:
        """features [B, width] -> logits [B, K]: the top alone."""

    @abstractmethod
    def logit_bounds(self, features: Box) -> Box:
        """Bounds [B, K] of the logits at p = inf over a box of features; hold for every float32 execution."""

    @abstractmethod
    def margin_lb(self, features: Box, y: Tensor) -> Tensor:
        """Lower bounds [B] of the margin f_y - max_{i != y} f_i at p = inf over a box of features.

        One above 0 means that f_y is above every other logit in every float32 execution.
        """

    @abstractmethod
    def executed(self, x: Tensor, p: float = math.inf) -> Execution:
        """One forward pass with what a proof asks of it; x [B, C, H, W] in [0, 1]."""

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, C, H, W] in [0, 1] -> logits [B, K]."""
        return self.logits(self.features(x, p), p)

    def bounds(self, box: Box) -> Box:
        """Bounds [B, K] of the logits at p = inf over a box of images; hold for every float32 execution."""
        return self.logit_bounds(self.feature_bounds(box))

    def activations(self, x: Tensor, p: float = math.inf) -> list[Tensor]:
        """The normalised input and the output of every layer of f, the features last.

        Raises what `check_images` raises.
        """
        return self._chain(self._feature_layers(), "x", x).outputs(x, p)

    def features(self, x: Tensor, p: float = math.inf) -> Tensor:
        """f(x) [B, width]: the distance net below the top, not negated; x [B, C, H, W] in [0, 1]."""
        return self._chain(self._feature_layers(), "x", x).last(x, p).flatten(1)

    def feature_bounds(self, box: Box) -> Box:
        """Bounds [B, width] of `features` at p = inf over a box of images, sound for float32 as executed.

        Raises ValueError in training mode, of a part too (the mean shift is no constant there), for lower > upper, and
        for a normalisation that `Normalize.check` refuses; what `check_ends` and `check_images` raise.
        """
        if any(module.training for module in self.modules()):
            raise ValueError("bounds need a net in evaluation mode, got one in training mode (call net.eval())")
        check_ends(box)
        chain = self._chain(self._feature_layers(), "box", box.lower)
        self.normalize.check()
        if not (box.lower <= box.upper).all():
            raise ValueError("box must have lower <= upper everywhere, got a lower bound above its upper one, or NaN")
        return chain.bounds(box).map(lambda v: v.flatten(1))

    def check_images(self, name: str, x: Tensor) -> None:
        """Raises ValueError for images of another shape than the net's, TypeError for no dense floating tensor."""
        check_tensors(**{name: x})
        if x.dim() != 4 or tuple(x.shape[1:]) != self.input_shape:
            raise ValueError(f"{name} must be [B, {', '.join(map(str, self.input_shape))}], got {list(x.shape)}")
        if not x.dtype.is_floating_point:
            raise TypeError(f"{name} must be floating point, pixels in [0, 1], got {x.dtype}")
        if x.layout is not torch.strided:
            raise TypeError(f"{name} must be dense, got {x.layout}")

    def roundings(self) -> int:
        """How many float32 roundings, at most, an executed feature or plain logit carries from the input on.

        Two in the normalisation, then those of every distance layer.
        """
        return 2 + sum(layer.roundings for layer in self.distance_layers())

    def flushed(self) -> float:
        """The most by which the difference of two logits changes where every operation flushes denormals to zero.

        A value that is lost can also turn a later rounding, or be enlarged by one, which is not in here.
        """
        return self.roundings() * FLUSHED * self.normalize.gain

    def distance_layers(self) -> list[DistanceLayer]:
        """All distance layers from the pixels up, the top too where it is one."""
        return self._feature_layers()

    def parts(self) -> list[nn.Module]:
        """The normalisation, and then all distance layers."""
        return [self.normalize, *self.distance_layers()]

    def distance_weights(self) -> list[nn.Parameter]:
        """The weights of all distance neurons: what l_p decay acts on."""
        return [layer.weight for layer in self.distance_layers()]

    def other_parameters(self) -> list[nn.Parameter]:
        """Every other parameter: biases and head."""
        distance = {id(weight) for weight in self.distance_weights()}
        return [parameter for parameter in self.parameters() if id(parameter) not in distance]

    def _feature_layers(self) -> list[DistanceLayer]:
        return cast(list[DistanceLayer], list(self.layers))

    def _chain(self, layers: list[DistanceLayer], name: str, x: Tensor) -> Chain:
        """What passes through the net up to the last of these layers.

        Raises what `check_images` raises, and TypeError for an x that does not reach the layers in their own dtype.
        """
        self.check_images(name, x)
        dtype = (layers[0].weight if layers else next(self.parameters())).dtype
        if torch.promote_types(x.dtype, self.normalize.mean.dtype) != dtype:
            raise TypeError(f"{name} must have the dtype of the net, {dtype}, got {x.dtype}")
        return chain_of(self.normalize, layers, self.parts())


class PlainNet(DistanceNet):
    """A net whose top is a distance layer too: logits = -(output of the top), each 1-Lipschitz at p = inf (Eq. 3)."""

    top: LInfDist

    def distance_layers(self) -> list[DistanceLayer]:
        """All distance layers from the pixels up, the top last."""
        return [*super().distance_layers(), self.top]

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, C, H, W] in [0, 1] -> logits [B, K]."""
        return -self._chain(self.distance_layers(), "x", x).last(x, p)

    def executed(self, x: Tensor, p: float = math.inf) -> Execution:
        """One forward pass with what a proof asks of it: the last distance layer is the top."""
        outputs, size = self._chain(self.distance_layers(), "x", x).sized(x, p)
        return Execution(outputs, -outputs, size)

    def logits(self, features: Tensor, p: float = math.inf) -> Tensor:
        """features [B, width] -> logits [B, K]."""
        return -self.top(features, p)

    def logit_bounds(self, features: Box) -> Box:
        """Bounds [B, K] of the logits over a box of features; hold for every float32 execution."""
        top = self.top.bounds(features)
        return Box(-top.upper, -top.lower)

    def margin_lb(self, features: Box, y: Tensor) -> Tensor:
        """The difference of the bounds of two logits, less what they lose where some threads flush denormals to zero;
        its sign is exact. -inf where a bound is infinite: behind an infinite distance an executed value may be NaN,
        which no bound holds."""
        logits = self.logit_bounds(features)
        bounded = (logits.lower.isfinite() & logits.upper.isfinite()).all(1)
        return torch.where(bounded, margin(logits.lower, y, logits.upper) - self.flushed(), -math.inf)


class CompositeNet(DistanceNet):
    """A net with an ordinary network on top, g(f(x)) (Section 6): only its features are 1-Lipschitz.

    An ordinary net is one whose f has no layer.
    """

    head: Head

    def executed(self, x: Tensor, p: float = math.inf) -> Execution:
        """One forward pass with what a proof asks of it: the outputs are the features."""
        features, size = self._chain(self.distance_layers(), "x", x).sized(x, p)
        features = features.flatten(1)
        return Execution(features, self.logits(features, p), size)

    def logits(self, features: Tensor, p: float = math.inf) -> Tensor:
        """features [B, width] -> logits [B, K]; p is not used."""
        return self.head(features)

    def reach(self, features: Tensor, eps: float) -> Box:
        """Where the features may be while pixels move by at most eps (pixels), rounding aside: for training."""
        moved = eps / self.std
        return Box(features - moved, features + moved)

    def logit_bounds(self, features: Box) -> Box:
        """Bounds [B, K] of the logits in float64 over a box of features; hold for every float32 execution."""
        return self.head.bounds(features)

    def margin_lb(self, features: Box, y: Tensor) -> Tensor:
        """In float64, by Eq. 21, over a box widened by what features lose where some threads flush denormals."""
        lower, upper = (end.double() for end in features)
        return self.head.margin_lb(Box(lower - self.flushed(), upper + self.flushed()), y)


def margin(logits: Tensor, y: Tensor, rivals: Tensor | None = None) -> Tensor:
    """f_y - max_{i != y} f_i [B]; the other logits from `rivals` where given: upper bounds beside lower ones."""
    label, others = y.unsqueeze(1), logits if rivals is None else rivals
    return logits.gather(1, label).squeeze(1) - others.scatter(1, label, -math.inf).amax(1)


def _shape(sides: tuple[int, int, int]) -> tuple[int, int, int]:
    try:
        channels, height, width = (integer("input_shape", side, at_least=1) for side in sides)
    except (TypeError, ValueError) as error:
        raise type(error)(f"input_shape must be channels, height and width of at least 1, got {sides!r}") from error
    return channels, height, width


def _means(mean: object, channels: int) -> tuple[float, ...]:
    # arrays without a dimension and texts have the method of an iterable, and are none here
    several = isinstance(mean, Iterable) and not isinstance(mean, str) and getattr(mean, "ndim", None) != 0
    each = tuple(cast(Iterable[float], mean)) if several else (mean,) * channels
    if len(each) != channels:
        raise ValueError(f"mean must be one number or {channels} (one per channel), got {len(each)}")
    return tuple(real("mean", number) for number in each)
