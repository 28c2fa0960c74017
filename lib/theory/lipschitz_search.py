"""The search for the steepest pair of inputs of a whole net: what Fact 3.4 promises, tried from below."""

import copy
import math

import torch
from torch import Tensor

from lib.nets.base import DistanceNet

STRIDE = 0.05  # how far one ascent moves a pair, pixels
ROUNDING = 2.0**-36  # of the largest value executed: more than float64 can add to a difference of two logits


def empirical_lipschitz(
    net: DistanceNet,
    x: Tensor | None = None,
    p: float = math.inf,
    *,
    step: float = 2.0**-8,
    ascents: int = 20,
    seed: int = 0,
) -> float:
    """max ||net(x') - net(x)||_inf / ||x' - x||_inf over the pairs of a search: a lower bound of the constant.

    Distances of inputs are in network units (pixels / std), as in Fact 3.4, so the promise is 1 for an `LInfDistNet` at
    p = inf and `net_lipschitz_bound` at finite p. The result never exceeds it: logits are executed in float64, and what
    rounding can have added is taken off.

    Each image is the middle of a pair that lies `step` apart along the signs of the gradient of one logit, the
    direction in which that logit is steepest. The pair then moves to where the logit's slopes at its two ends differ
    more, both ends inside [0, 1]; the steepest pair seen counts.

    Args:
        net: any net, not changed; it is measured in evaluation mode.
        x: images [B, C, H, W] in [0, 1] to start from; None: 16 images of uniform noise, drawn from `seed`.
        p: exponent, 1 <= p <= inf.
        step: distance of a pair, pixels, more than 0 and at most 1.
        ascents: moves of each pair, at least 0.
        seed: of the images where x is None.

    Raises:
        ValueError: no images, step outside (0, 1], ascents < 0, or what the net refuses.
    """
    if not 0 < step <= 1:
        raise ValueError(f"step is {step}, expected a distance in pixels, 0 < step <= 1")
    if ascents < 0:
        raise ValueError(f"ascents is {ascents}, expected at least 0")
    if x is None:
        x = torch.rand(16, *net.input_shape, generator=torch.Generator().manual_seed(seed))
    if not len(x):
        raise ValueError("x has 0 images, expected at least one")
    exact = _exact(net)
    middle, best = x.detach().to(next(exact.parameters())).clamp(step / 2, 1 - step / 2), 0.0
    logit = torch.arange(len(x), device=middle.device) % net.num_classes
    for _ in range(ascents + 1):
        half = step / 2 * _slope(exact, middle, logit, p).sign()
        best = max(best, _steepness(exact, middle - half, middle + half, p))
        bend = _slope(exact, middle + half, logit, p) - _slope(exact, middle - half, logit, p)
        middle = (middle + STRIDE * bend.sign()).clamp(step / 2, 1 - step / 2)
    return best


def pair_steepness(net: DistanceNet, x: Tensor, other: Tensor, p: float = math.inf) -> float:
    """The steepest of given pairs of images [B, C, H, W], such as an attack finds; pairs that are equal do not count.

    As in `empirical_lipschitz`: network units, float64, rounding taken off; 0 where all pairs are equal.
    """
    return _steepness(_exact(net), x.double(), other.double(), p)


def diagonal_steepness(net: DistanceNet, distance: float, p: float) -> float:
    """The steepness between x and 1.001 x for x = distance (1, ..., 1), in network units, far outside valid images.

    It tends to `net_lipschitz_bound` as the distance grows, for every `LInfDistNet`: seen from far away, its weights
    and mean shifts are 0 and the net is `steepest_net`.

    Args:
        net: not changed; measured in float64 and evaluation mode.
        distance: more than 0.
        p: exponent, 1 <= p <= inf.
    """
    exact = _exact(net)
    near = exact.normalize.mean + exact.std * distance * next(exact.parameters()).new_ones(1, *net.input_shape)
    return _steepness(exact, near, near + 0.001 * exact.std * distance, p)


def _exact(net: DistanceNet) -> DistanceNet:
    return copy.deepcopy(net).double().eval().requires_grad_(False)


def _slope(net: DistanceNet, x: Tensor, logit: Tensor, p: float) -> Tensor:
    """The gradient of logit[b] at x[b], [B, C, H, W]."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(net(x, p).gather(1, logit[:, None]).sum(), x)
    return slope


def _steepness(net: DistanceNet, near: Tensor, far: Tensor, p: float) -> float:
    with torch.no_grad():
        moved_in = (far - near).flatten(1).abs().amax(1) / net.std
        (_, there, size), (_, here, _) = net.executed(far, p), net.executed(near, p)
        largest = size + torch.maximum(there.abs(), here.abs()).amax(1)
        moved_out = (there - here).abs().amax(1) - ROUNDING * largest
    return torch.where(moved_in > 0, moved_out / moved_in, 0.0).amax().item()
