"""The two normalisations of a distance net: of its pixels, and of its units. Both keep an l_inf ball an l_inf ball."""

import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from lib.nets.arguments import integer, real
from lib.nets.box import Box, check_ends
from lib.ops.checks import check_tensors

SMALLEST_STD = 2.0**-100  # below it the float32 nearest to a std may be far from it

_ONE_SAMPLE = (
    "a mean shift in training mode makes one sample 0 everywhere, got a batch of one: "
    "call eval() to predict, or train on more than one"
)


class Normalize(nn.Module):
    """(x - mean) / std with one mean per channel and one scalar std, so that an l_inf ball stays an l_inf ball.

    Args:
        mean: per channel, in pixel units ([0, 1]).
        std: in pixel units; a radius eps in pixels is eps / std behind this layer.

    Neither is in the state_dict: both are arguments of the net, which `lib.save` and `lib.load` keep.

    Raises:
        ValueError: as `check`.
    """

    mean: Tensor

    def __init__(self, mean: tuple[float, ...], std: float) -> None:
        super().__init__()
        self.std, self._means = std, mean
        self.register_buffer("mean", self._given_mean(), persistent=False)
        if not self.mean.is_meta:
            self.check()

    def extra_repr(self) -> str:
        mean = "meta" if self.mean.is_meta else ", ".join(f"{m:.6g}" for m in self.mean.flatten().tolist())
        return f"mean=({mean}), std={self.std}"

    @property
    def gain(self) -> float:
        """By how much, at least 1, it enlarges what underflow takes from a pixel."""
        return max(1.0, 1 / self.std)

    def check(self) -> None:
        """Raises ValueError for a mean that is not finite in float32, or a std outside 2^-100 to 2^100."""
        if not self.mean.isfinite().all():
            raise ValueError(f"mean must be finite in float32, got {self.mean.flatten().tolist()}")
        if not SMALLEST_STD <= self.std <= 1 / SMALLEST_STD:
            raise ValueError(f"std must be between 2^-100 and 2^100, got {self.std}")

    def _given_mean(self) -> Tensor:
        return torch.tensor(self._means, dtype=torch.float32).view(-1, 1, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        without_values = self.mean.is_meta
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if without_values and not self.mean.is_meta:  # a state_dict would not bring them
            self.mean.copy_(self._given_mean())
        return self

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, C, H, W] in pixels -> the same shape in network units; p is not used."""
        centered = x - self.mean
        # by a number a GPU would not divide, but multiply with its rounded inverse: one rounding more
        return centered.div_(centered.new_full((), self.std))

    def bounds(self, box: Box) -> Box:
        """The same two monotone operations at both ends."""
        return box.map(self)


class MeanShift(nn.Module):
    """y - mu per unit: the only normalisation a distance net can afford, since it keeps the Lipschitz constant.

    In training mu is the batch mean (over space too for [B, C, H, W]; over all ranks when training is distributed)
    and gradients flow through it; running_mean <- (1 - momentum) running_mean + momentum mu. In evaluation mu is
    running_mean, a constant. No scale, no affine part (Section 5).

    One sample is its own mean: in training it becomes 0 everywhere, of which a UserWarning tells, and running_mean
    follows it all the same. running_mean keeps its own dtype, whatever that of the batches.

    Args:
        features: units, or channels.
        momentum: weight of the newest batch in running_mean, which starts at 0; from 0 to 1.

    Raises:
        ValueError, TypeError: features that are no integer of at least 1, momentum that is no number from 0 to 1.
    """

    running_mean: Tensor

    def __init__(self, features: int, momentum: float = 0.1) -> None:
        super().__init__()
        integer("features", features, at_least=1)
        self.momentum = real("momentum", momentum)
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        self.register_buffer("running_mean", torch.zeros(features))

    @property
    def features(self) -> int:
        """Units, or channels."""
        return len(self.running_mean)

    def extra_repr(self) -> str:
        return f"features={self.features}, momentum={self.momentum}"

    def forward(self, y: Tensor, p: float = math.inf) -> Tensor:
        """y [B, features] or [B, features, H, W], shifted; p is not used.

        Raises ValueError for another shape and for an empty training batch, TypeError for what is no tensor.
        """
        self._check(y)
        if not self.training:
            return y - per_unit(self.running_mean, y)
        mean = self._batch_mean(y)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        return y - per_unit(mean, y)

    def bounds(self, box: Box) -> Box:
        """The same subtraction at both ends: rounding is monotone, so executed values stay inside.

        Raises ValueError in training mode, where the mean is no constant, and for another shape.
        """
        if self.training:
            raise ValueError("bounds need a mean shift in evaluation mode, got training mode (call eval())")
        check_ends(box)
        self._check(box.lower)
        return box.map(lambda y: y - per_unit(self.running_mean, y))

    def _check(self, y: Tensor) -> None:
        check_tensors(y=y)
        if y.dim() < 2 or y.shape[1] != self.features:  # one feature would broadcast
            raise ValueError(f"y must be [B, {self.features}, ...], got {list(y.shape)}")

    @staticmethod
    def _batch_mean(y: Tensor) -> Tensor:
        # a sum of half precision could overflow where its mean does not
        total = y.transpose(0, 1).flatten(1).sum(1, dtype=torch.promote_types(y.dtype, torch.float32))
        samples = y.numel() // y.shape[1]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return _mean_over_ranks(total, samples).to(y.dtype)
        if not samples:
            raise ValueError(f"mean shift needs at least one sample to train on, got a batch of shape {list(y.shape)}")
        if samples == 1 and not torch.compiler.is_compiling():  # compiled code would break at a warning
            warnings.warn(_ONE_SAMPLE, stacklevel=2)
        return (total / samples).to(y.dtype)


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks; every rank's loss pulls on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: FunctionCtx, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def _mean_over_ranks(total: Tensor, samples: int) -> Tensor:
    # Shares of a batch may differ by one sample: ranks add totals and counts, not means.
    both = cast(Tensor, _SumOverRanks.apply(torch.cat([total, total.new_tensor([samples])])))
    return both[:-1] / both[-1]


def per_unit(values: Tensor, y: Tensor) -> Tensor:
    """values [units] beside y [B, units] or [B, units, H, W]."""
    return values.view(-1, *[1] * (y.dim() - 2))
