"""Distance layers: every one is 1-Lipschitz in l_inf at p = inf (Fact 3.4) and bounds its own output over a box."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.nets.arguments import integer, real
from lib.nets.box import Box, check_ends
from lib.nets.normalisation import MeanShift, per_unit
from lib.ops import linf_dist_bounds, lp_dist
from lib.ops.checks import check_tensors

# Entries of all patches that are made at a time: what a cache holds, and what fills a GPU.
_CPU_PATCHES, _GPU_PATCHES = 2**20, 2**28


class DistanceLayer(nn.Module, ABC):
    """What distance layers share: a bias and a mean shift behind their distances, where there are any.

    Attributes:
        weight: [units, inputs of a unit ...].
        bias: [units], or None.
        shift: of the units, or None.
    """

    bias: nn.Parameter | None
    shift: MeanShift | None

    def __init__(self, weight: Tensor, *, bias: bool, mean_shift: bool) -> None:
        super().__init__()
        units = len(weight)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(units)) if bias else None
        self.shift = MeanShift(units) if mean_shift else None

    @abstractmethod
    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """A batch of inputs -> a batch of outputs."""

    @abstractmethod
    def bounds(self, box: Box) -> Box:
        """Bounds at p = inf, exact for each unit over the box (Appendix B).

        Raises ValueError in training mode, where that changes what the layer computes.
        """

    @property
    def roundings(self) -> int:
        """Float32 roundings between an input and its output: one difference, one of a bias, one of a mean shift."""
        return 1 + (self.bias is not None) + (self.shift is not None)

    def offset(self) -> Tensor:
        """The most that bias and mean shift together move an output: max_k |b_k| + max_k |running_mean_k|."""
        constants = [] if self.bias is None else [self.bias.detach()]
        constants += [] if self.shift is None else [self.shift.running_mean]
        return sum((c.abs().amax() for c in constants), self.weight.new_zeros(()))

    def _finish(self, distances: Tensor, p: float) -> Tensor:
        y = self._biased(distances)
        return y if self.shift is None else self.shift(y, p)

    def _finish_bounds(self, distances: Box) -> Box:
        biased = distances.map(self._biased)
        return biased if self.shift is None else self.shift.bounds(biased)

    def _biased(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + per_unit(self.bias, y)


class LInfDist(DistanceLayer):
    """A layer of distance neurons, y_k = ||x - w_k||_p + b_k, then the mean shift (Eq. 2, 3).

    Args:
        in_features, out_features: widths d_in and d_out.
        bias: add b, which starts at 0 (the last layer of a net).
        mean_shift: subtract the mean of each unit (every other layer).
        identity: weights start as N(0, 1); where d_in <= d_out, entry (k, k mod d_in) then becomes -identity, so that
            unit k first copies input k mod d_in, whose distance |x + identity| is the largest by far (Section 5.3). 0
            leaves the draw.

    Raises:
        ValueError, TypeError: widths that are not integers of at least 1, an identity that is no finite number.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        mean_shift: bool = True,
        identity: float = 10.0,
    ) -> None:
        inputs = integer("in_features", in_features, at_least=1)
        units = integer("out_features", out_features, at_least=1)
        weight = _drawn(units, inputs, identity=real("identity", identity))
        super().__init__(weight, bias=bias, mean_shift=mean_shift)

    @property
    def in_features(self) -> int:
        """d_in."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """d_out."""
        return self.weight.shape[0]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, ...] of d_in features in all -> [B, d_out]; ValueError where the features do not match."""
        return self._finish(lp_dist(as_rows(x), self.weight, p), p)

    def bounds(self, box: Box) -> Box:
        """Bounds at p = inf, exact for each unit over the box (Appendix B)."""
        check_ends(box)
        return self._finish_bounds(Box(*linf_dist_bounds(*box.map(as_rows), self.weight)))


class LInfDistConv2d(DistanceLayer):
    """Distance neurons over patches: Eq. 3 on each k x k patch with shared weights, then the mean shift per channel.

    1-Lipschitz for any stride: an output looks at a subset of coordinates, and zero padding adds constants.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as in `torch.nn.Conv2d` (square kernels).
        bias, mean_shift, identity: as in `LInfDist`; the identity entry sits at the centre tap of channel
            k mod in_channels, where in_channels <= out_channels.

    Raises:
        ValueError, TypeError: channels, kernel_size and stride that are not integers of at least 1, padding below 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
        mean_shift: bool = True,
        identity: float = 10.0,
    ) -> None:
        channels = integer("in_channels", in_channels, at_least=1)
        units = integer("out_channels", out_channels, at_least=1)
        side = integer("kernel_size", kernel_size, at_least=1)
        step, border = integer("stride", stride, at_least=1), integer("padding", padding, at_least=0)
        weight = _drawn(units, channels, side, side, identity=real("identity", identity))
        super().__init__(weight, bias=bias, mean_shift=mean_shift)
        self.kernel_size, self.stride, self.padding = side, step, border

    @property
    def in_channels(self) -> int:
        """C_in."""
        return self.weight.shape[1]

    @property
    def out_channels(self) -> int:
        """C_out."""
        return self.weight.shape[0]

    def extra_repr(self) -> str:
        return (
            f"in_channels={self.in_channels}, out_channels={self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, bias={self.bias is not None}"
        )

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, C_in, H, W] -> [B, C_out, H', W']; ValueError where channels do not match or a kernel does not fit."""
        w = self.weight.flatten(1)
        images = [self._as_image(lp_dist(self._patches(part), w, p), part) for part in self._parts(x)]
        return self._finish(torch.cat(images), p).contiguous()

    def bounds(self, box: Box) -> Box:
        """Bounds at p = inf, exact for each unit over the box."""
        check_ends(box)
        parts = [self._bounds_of(*ends) for ends in zip(self._parts(box.lower), self._parts(box.upper), strict=True)]
        distances = Box(*(torch.cat(ends) for ends in zip(*parts, strict=True)))
        return self._finish_bounds(distances).map(Tensor.contiguous)

    def _bounds_of(self, lower: Tensor, upper: Tensor) -> Box:
        ends = linf_dist_bounds(self._patches(lower), self._patches(upper), self.weight.flatten(1))
        return Box(*ends).map(lambda y: self._as_image(y, lower))

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        check_tensors(x=x)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must be [B, {self.in_channels}, H, W], got {list(x.shape)}")
        if min(x.shape[2:]) + 2 * self.padding < self.kernel_size:
            raise ValueError(f"x must be as large as a kernel of {self.kernel_size}, got {list(x.shape)}")
        if not x.dtype.is_floating_point:
            raise TypeError(f"x must be floating point, got {x.dtype}")
        return few_images(x, self.kernel_size, self.stride)

    def _patches(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)
        return patches.transpose(1, 2).flatten(0, 1)

    def _as_image(self, y: Tensor, x: Tensor) -> Tensor:
        height, width = (
            (side + 2 * self.padding - self.kernel_size) // self.stride + 1 for side in (x.shape[2], x.shape[3])
        )
        return y.view(x.shape[0], height, width, len(self.weight)).permute(0, 3, 1, 2)


def few_images(x: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, ...]:
    """x [B, C, H, W] in parts: each pixel is in many patches, and those of a whole batch would leave the cache."""
    entries = _CPU_PATCHES if x.device.type == "cpu" else _GPU_PATCHES
    return x.split(max(1, entries // max(1, x[:1].numel() * kernel_size**2 // stride**2)))


def as_rows(x: Tensor) -> Tensor:
    """[B, ...] as [B, features]; ValueError for a tensor that has no features, TypeError for what is no tensor."""
    check_tensors(x=x)
    if x.dim() < 2:
        raise ValueError(f"x must be a batch [B, ...] of inputs, got {list(x.shape)}")
    return x.flatten(1)


def _drawn(units: int, inputs: int, *taps: int, identity: float) -> Tensor:
    """Weights from N(0, 1), with -identity where unit k looks at input k mod `inputs`, at its centre tap."""
    weight = torch.randn(units, inputs, *taps)
    if identity and inputs <= units:
        unit = torch.arange(units)
        centre = weight if not taps else weight[..., taps[0] // 2, taps[1] // 2]
        centre[unit, unit % inputs] = -identity
    return weight
