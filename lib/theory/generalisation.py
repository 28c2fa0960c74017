"""Theorem 4.2: the robust error of an l_inf-dist net from its margins on n samples, and the size of the net.

Labels are y = +-1, the classifier is sign(f), f is scalar and 1-Lipschitz: its certified radius is y f(x) itself. What
the paper leaves inside O is set to 1 here, so bounds show a shape and an order of magnitude, not a guarantee.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Bound(NamedTuple):
    """The value of a margin bound, and the delta of its infimum."""

    value: float
    delta: float


def margin_error(margins: Tensor, r: float) -> float:
    """err_r = P_n(y f(x) <= r), the share of margins [n] that do not exceed r.

    Lemma A.5: it is never less than the share gamma_r of samples that some x' with ||x' - x||_inf <= r turns, since
    y f(x) <= y f(x') + r for a 1-Lipschitz f.
    """
    return float((margins <= r).double().mean())


def margin_bound(margins: Tensor, r: float, slope: float, t: float, n: float | None = None) -> Bound:
    """inf over 0 < delta <= 1 of P_n(y f <= r + delta) + slope / delta + sqrt(log log2(2 / delta) / n), + t / sqrt(n).

    The right side of Theorem 4.2 (Eq. 5) with slope = `network_term`, and of Lemma A.4 with slope = 48 Rad_n; it holds
    with probability at least 1 - 2 exp(-2 t^2). The infimum is exact: between two margins the sum falls with delta, so
    that it is approached from the left at a margin, or attained at delta = 1.

    Args:
        margins: y_i f(x_i) of the training samples, at least one.
        r: radius, in the units of f and x.
        slope: at least 0.
        t: more than 0.
        n: number of samples; None is that of the margins, another asks for as many samples with margins like these.

    Raises:
        ValueError: no margins, a negative slope, or t that is not positive.
    """
    _check(margins, slope, t)
    ordered = margins.double().sort().values
    candidates = (ordered - r).unique()
    candidates = torch.cat([candidates[(candidates > 0) & (candidates <= 1)], torch.ones(1, dtype=torch.float64)])
    below = torch.searchsorted(ordered - r, candidates)  # as delta comes from the left
    below[-1] = (ordered - r <= 1).sum()
    logs = (2 / candidates).log2().log()
    samples = len(margins) if n is None else n
    total = below.double() / len(margins) + slope / candidates + (logs / samples).sqrt()
    at = int(total.argmin())
    return Bound(float(total[at]) + t / math.sqrt(samples), float(candidates[at]))


def counting_bound(margins: Tensor, r: float, slope: float, t: float, n: float | None = None) -> float:
    """P_n(y f <= r) + slope + t / sqrt(n): a bound of the robust error for nets whose outputs need no bound.

    With the last bias free, y f(x) <= r asks for the sign of f - r or f + r, again nets of this size. So the events of
    all f and r show at n points at most the square of the sign patterns of Lemma A.8, and by the theorem of Vapnik and
    Chervonenkis err_r stays within O(sqrt(V log(n) / n)) + t / sqrt(n) of its count, for all of them at once, with
    probability at least 1 - exp(-2 t^2). With slope = `network_term` it is never more than `margin_bound`.

    Args:
        margins, r, slope, t, n: as in `margin_bound`.

    Raises:
        ValueError: as `margin_bound`.
    """
    _check(margins, slope, t)
    return margin_error(margins, r) + slope + t / math.sqrt(len(margins) if n is None else n)


def network_term(width: int, depth: int, n: float) -> float:
    """L W^2 / sqrt(n), what Eq. 5 divides by delta, with constant and logarithms set to 1."""
    return depth * width**2 / math.sqrt(n)


def samples_needed(width: int, depth: int, delta: float, t: float, level: float) -> float:
    """The n at which Eq. 5 falls to `level` when every training margin exceeds r + delta; constants set to 1.

    All that is left falls as 1 / sqrt(n): n = ((L W^2 / delta + sqrt(log log2(2 / delta)) + t) / level)^2.
    """
    return ((depth * width**2 / delta + math.sqrt(math.log(math.log2(2 / delta))) + t) / level) ** 2


def relu_vc_dimension(width: float, depth: float) -> float:
    """L^2 W^2 log(L W), Eq. 17 (Lemma A.6) with its constant set to 1, for a ReLU network, W >= inputs."""
    return depth**2 * width**2 * math.log(depth * width)


def linf_dist_vc_dimension(width: int, depth: int) -> float:
    """L^2 W^4 log^2(W) log(L W), Eq. 18 (Lemma A.8) with its constant set to 1, for an l_inf-dist net, W >= 2.

    W is that of the widest layer, the input included, as in Lemma A.6.

    Eq. 17 at width W^2 and depth L log W, the size of the ReLU network that `relu_linf_dist_net` makes of it. The
    power of log W is this substitution's; the paper's could not be compared.
    """
    return depth**2 * width**4 * math.log(width) ** 2 * math.log(depth * width)


def massart(vc: float, n: float) -> float:
    """min(1, sqrt(2 V log(e n / V) / n)), Eq. 16: Rad_n of a sign-valued class of VC dimension V at n points.

    By Massart's lemma, since such a class shows at most (e n / V)^V of the 2^n sign patterns (Sauer), n >= V; the
    complexity of signs never exceeds 1.
    """
    return 1.0 if n <= vc else min(1.0, math.sqrt(2 * vc * math.log(math.e * n / vc) / n))


def _check(margins: Tensor, slope: float, t: float) -> None:
    if not len(margins):
        raise ValueError("margins is empty, expected at least one margin")
    if not slope >= 0:
        raise ValueError(f"slope is {slope}, expected at least 0")
    if not t > 0:
        raise ValueError(f"t is {t}, expected more than 0")
