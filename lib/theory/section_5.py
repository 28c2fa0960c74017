"""What Section 5 says about training, as quantities: growth of outputs, weights that learn, signal through depth."""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lib.nets.base import DistanceNet
from lib.nets.layers import LInfDist
from lib.recipes import Recipe
from lib.theory.small import train

POINTS = 20_001  # of the trapezoidal rule
TAIL = 12.0  # P(|w| > 12) is below 1e-32


def expected_largest(n: int) -> float:
    """E ||w||_inf for w ~ N(0, I_n): the integral over t > 0 of 1 - erf(t / sqrt 2)^n, to about 1e-6.

    It is the mean output of a Gaussian distance neuron at the input 0 (Section 5.1).

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}, expected at least one input")
    t = torch.linspace(0, TAIL, POINTS, dtype=torch.float64)
    return torch.trapezoid(1 - torch.erf(t / math.sqrt(2)).pow(n), t).item()


def extreme_value_form(n: int) -> float:
    """a - (ln ln 2n + ln 4 pi) / (2a) + 0.5772 / a with a = sqrt(2 ln 2n), for n >= 2: the limit law's mean.

    The leading term is the sqrt(2 ln n) of the paper, up to the 2 in 2n.
    """
    a = math.sqrt(2 * math.log(2 * n))
    return a - (math.log(math.log(2 * n)) + math.log(4 * math.pi)) / (2 * a) + 0.5772 / a


def layer_means(widths: Sequence[int], *, mean_shift: bool, samples: int = 32, seed: int = 0) -> list[float]:
    """The mean output of each of a stack of Gaussian layers at p = inf, by layer.

    Args:
        widths: n_0 inputs, then the widths of the layers.
        mean_shift: whether each layer subtracts its mean over the batch.
        samples: inputs from N(0, 1), after one more that is 0 everywhere; without mean shift the mean is that of 0.
        seed: of weights and inputs.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        v = torch.cat([torch.zeros(1, widths[0]), torch.randn(samples, widths[0])])
        means = []
        for inputs, outputs in pairwise(widths):
            v = LInfDist(inputs, outputs, mean_shift=mean_shift, identity=0.0).train()(v)
            means.append((v if mean_shift else v[:1]).mean().item())
    return means


def moved_shares(net: DistanceNet, recipe: Recipe, *, seed: int = 0) -> list[float]:
    """Which share of each layer's weights moves at all in training: by more than a hundredth of a learning step.

    Adam scales a step by the weight's own gradients, so a weight that ever had a gradient moves by about lr, whatever
    the gradient's size, and one that never had stays where it is. Trains the net in place.

    Raises:
        ValueError: a recipe with decay, which moves weights without a gradient.
    """
    if recipe.decay != "none":
        raise ValueError(f"decay is {recipe.decay!r}, expected 'none': decay moves weights that have no gradient")
    before = [weight.detach().clone() for weight in net.distance_weights()]
    train(net, recipe, seed=seed)
    after = net.distance_weights()
    return [
        ((new - old).abs() > recipe.lr / 100).double().mean().item() for old, new in zip(before, after, strict=True)
    ]


def spreads(net: DistanceNet, x: Tensor, p: float) -> list[float]:
    """The standard deviation of a unit's value over the images x, averaged over the units: pixels, then each layer.

    A copy of the net is run, in training mode, with the batch's own means.
    """
    with torch.no_grad():
        activations = copy.deepcopy(net).train().activations(x, p)
    return [v.flatten(1).std(0).mean().item() for v in activations]
