"""Lipschitz constants of l_p-dist neurons, layers and nets with respect to l_inf (Section 3; Facts 3.4 and 3.6)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lib.nets.models import LInfDistNet
from lib.ops import lp_dist
from lib.robustness.inputs import evaluation_mode


def lipschitz_constant(n: int, p: float) -> float:
    """n^(1/p), the exact Lipschitz constant with respect to l_inf of x -> ||x - w||_p on R^n.

    ||x - w||_p - ||x' - w||_p <= ||x - x'||_p <= n^(1/p) ||x - x'||_inf, with equality along x - w = t (1, ..., 1).
    It is 1 for every n only at p = inf (Fact 3.4).

    Raises:
        ValueError: n < 1, or p < 1 or NaN.
    """
    if n < 1:
        raise ValueError(f"n is {n}, expected at least one input")
    _check_exponent(p)
    return float(n) ** (1.0 / p)


def net_lipschitz_bound(widths: Iterable[int], p: float) -> float:
    """prod_l n_l^(1/p), a bound on the Lipschitz constant with respect to l_inf of a net whose layers have n_l inputs.

    Args:
        widths: input widths n_1, ..., n_L; (784, 5120, 5120, 5120, 5120) for the paper's MNIST net.
        p: exponent of every layer, 1 <= p <= inf.

    Raises:
        ValueError: a width < 1, or p < 1 or NaN.
    """
    return math.prod(lipschitz_constant(n, p) for n in widths)


def steepest_pair(w: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """(x, x'), [I] each, a distance `step` apart in l_inf, between which ||. - w||_p rises by n^(1/p) step at every p.

    The constant of `lipschitz_constant` is attained here: x - w = (1, ..., 1) and x' - w = (1 + step) (1, ..., 1).

    Args:
        w: the neuron's weights [I].
        step: more than 0.

    Raises:
        ValueError: step that is not positive.
    """
    if not step > 0:
        raise ValueError(f"step is {step}, expected a positive distance")
    return w + 1, w + 1 + step


def steepness(x: Tensor, other: Tensor, w: Tensor, p: float) -> Tensor:
    """|u(x) - u(x')| / ||x - x'||_inf of the neurons u_k = ||. - w_k||_p, between paired rows: [B, O].

    Args:
        x, other: the points, [B, I] each; x[b] and other[b] must differ.
        w: weights [O, I].
        p: exponent, 1 <= p <= inf.
    """
    moved = (x - other).abs().amax(1, keepdim=True)
    return (lp_dist(x, w, p) - lp_dist(other, w, p)).abs() / moved


def local_constants(x: Tensor, w: Tensor, p: float) -> Tensor:
    """sum_i (|t_i| / ||t||_p)^(p-1) with t = x - w, [B, O]: how fast each neuron can rise at x per l_inf of input.

    It is the l_1 norm of the gradient. Hoelder bounds it by n^(1/p), with equality where all |t_i| are equal; at p = 1
    it is n and at p = inf it is 1, both everywhere.

    Args:
        x: points [B, I].
        w: weights [O, I]; no x_b may equal a w_o.
        p: exponent, 1 <= p <= inf.
    """
    if math.isinf(p):
        return x.new_ones(len(x), len(w))
    distance = lp_dist(x, w, p)[..., None]
    # one point at a time: [B, O, I] would not fit in memory for a wide layer
    rows = zip(x, distance, strict=True)
    return torch.stack([((point - w).abs() / y).pow(p - 1).sum(1) for point, y in rows])


def layer_constants(net: LInfDistNet, x: Tensor, p: float) -> list[float]:
    """The largest of `local_constants` in each layer, the top one last, at what it sees of the images [B, C, H, W]."""
    with torch.no_grad(), evaluation_mode(net):
        seen = zip(net.activations(x, p), net.distance_weights(), strict=True)
        return [local_constants(v.flatten(1), weight, p).amax().item() for v, weight in seen]


def steepest_net(inputs: int, width: int, depth: int, classes: int = 2) -> LInfDistNet:
    """A net of `depth` layers that attains `net_lipschitz_bound` at every p: all its weights are 0.

    On the diagonal x = t (1, ..., 1), t > 0, a unit of layer 1 is ||x||_p = n_1^(1/p) t, so the next layer sees a
    diagonal again. Takes images [B, 1, 1, inputs], not normalised, and is in evaluation mode.
    """
    net = LInfDistNet((1, 1, inputs), classes, width=width, depth=depth).eval()
    with torch.no_grad():
        for weight in net.distance_weights():
            weight.zero_()
    return net


def _check_exponent(p: float) -> None:
    if not p >= 1:
        raise ValueError(f"p is {p}, expected 1 <= p <= inf")
