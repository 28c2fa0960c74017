"""Lipschitz constants of l_p-dist neurons, layers and nets with respect to l_inf (Section 3; Facts 3.4 and 3.6)."""

import math
from collections.abc import Iterable

from torch import Tensor

from lib.ops import lp_dist


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


def layer_lipschitz_constant(m: int, p: float) -> float:
    """m^(1/p), the largest Lipschitz constant of m l_p-dist neurons side by side, l_p in and l_p out.

    One neuron is 1-Lipschitz in its own l_p; m equal ones all move by as much, and l_p adds them up.

    Raises:
        ValueError: m < 1, or p < 1 or NaN.
    """
    return lipschitz_constant(m, p)


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


def _check_exponent(p: float) -> None:
    if not p >= 1:
        raise ValueError(f"p is {p}, expected 1 <= p <= inf")
