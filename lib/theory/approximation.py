"""Theorem 4.1: l_inf-dist nets of width d + 2 approximate every 1-Lipschitz function, by construction."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lib.nets.box import Box
from lib.nets.layers import LInfDist
from lib.theory.pyramids import Pyramids, Target, pyramids
from lib.theory.signed_max import Term, Unit, distance_layer, signed_max


class Approximation(nn.Module):
    """An l_inf-dist net g with F - eps <= g <= F on a box, up to rounding; its output is one unit, not negated.

    Ordinary `LInfDist` layers with hand-set weights, so that it is 1-Lipschitz everywhere (Fact 3.4), and bounds and
    certificates hold. Outside the box g is still a net, but not near F: the units are no maxima there.

    Attributes:
        layers: the layers, in order.
        pyramids: whose maximum it is.
    """

    def __init__(self, layers: Iterable[LInfDist], pyramids: Pyramids) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.pyramids = pyramids

    @property
    def depth(self) -> int:
        """L, the number of layers, the one of the output included."""
        return len(self.layers)

    @property
    def width(self) -> int:
        """The units of the widest layer."""
        return max(len(layer.weight) for layer in self._distance_layers())

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """x [B, d] -> g(x) [B, 1]."""
        for layer in self.layers:
            x = layer(x, p)
        return x

    def activations(self, x: Tensor) -> list[Tensor]:
        """x [B, d] and the output of every layer at p = inf, [B, 1] at last."""
        return list(itertools.accumulate(self.layers, lambda v, layer: layer(v), initial=x))

    def bounds(self, box: Box) -> Box:
        """Bounds [B, 1] of g over boxes of inputs, [B, d] each, rounding included; within g(center) +- halfwidth."""
        for layer in self._distance_layers():
            box = layer.bounds(box)
        return box

    def _distance_layers(self) -> list[LInfDist]:
        return cast(list[LInfDist], list(self.layers))


def approximate(
    target: Target,
    lower: Sequence[float] | Tensor,
    upper: Sequence[float] | Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
) -> Approximation:
    """The net of Theorem 4.1 with two layers for each pyramid: width at most d + 2, depth 2m.

    Each hidden layer carries d copies of x, a scratch unit P for the distance to one centre, and the running maximum
    Q of the finished pyramids. P takes two layers, since a unit sees each x_j with one sign only; the update of Q
    (Eq. 15) shares the first of them with the next P:

        layer 1                      x       P = ||x - w_1||_inf                Q = x_1, not used
        layer 2i      (i < m)        x       P = max_j (x_j - w_(i+1),j)        Q = max(Q, F(w_i) - P)
        layer 2i + 1  (i < m)        x       P = max(P, max_j (w_(i+1),j - x_j))   Q
        layer 2m                                                                Q = max(Q, F(w_m) - P)

    Args, Raises: as in `pyramids`, which says what m is. The net is in the given dtype, in float64 within about 1e-15
    and in float32 within about 1e-6 times C of max_i F_i, at any depth: after the first rounding, copies are exact.
    """
    return _deep(pyramids(target, lower, upper, eps, dtype), _fast_layers)


def approximate_literally(
    target: Target,
    lower: Sequence[float] | Tensor,
    upper: Sequence[float] | Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
) -> Approximation:
    """The net of Theorem 4.1 on the paper's schedule, one term a layer: width d + 2, depth m (2d + 1) + 1.

    Layer 1 copies x. For each pyramid, 2d layers P = max(P, +-(x_j - w_ij)) (Eq. 14), of which the first overwrites
    P, then one layer Q = max(Q, F(w_i) - P) (Eq. 15). Otherwise as `approximate`.
    """
    return _deep(pyramids(target, lower, upper, eps, dtype), _literal_layers)


def approximate_wide(
    target: Target,
    lower: Sequence[float] | Tensor,
    upper: Sequence[float] | Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
) -> Approximation:
    """The same function with two layers, one hidden unit h_i = ||x - w_i||_inf - F(w_i) for each pyramid: width m.

    The output max_i (-h_i) is a signed maximum, |h_i| <= C. Its upper bounds over a box are exact, since each pyramid
    is one neuron; those of the deep nets, which see its two sides in two layers, are not. Otherwise as `approximate`.
    """
    cover = pyramids(target, lower, upper, eps, dtype)
    centers, heights = cover.centers.tolist(), cover.heights.tolist()
    hidden = [Unit(center, -height) for center, height in zip(centers, heights, strict=True)]
    output = signed_max([Term(i, -1) for i in range(len(hidden))], 2 * cover.bound, len(hidden))
    layers = [hidden, [output]]
    return Approximation([distance_layer(units, cover.centers.dtype) for units in layers], cover)


Layers = Iterator[list[Unit]]


def _deep(cover: Pyramids, schedule: Callable[[Pyramids, float], Layers]) -> Approximation:
    # one A for all layers: after the first rounding every value is a multiple of A's last digit, and copies are exact
    A = 2 * cover.bound + max(cover.reach, float(cover.heights.abs().max()))
    return Approximation([distance_layer(units, cover.centers.dtype) for units in schedule(cover, A)], cover)


def _fast_layers(cover: Pyramids, A: float) -> Layers:
    centers, heights = cover.centers.tolist(), cover.heights.tolist()
    d = len(centers[0])
    P, Q, unit = d, d + 1, functools.partial(signed_max, A=A, in_features=d + 2)
    copies, keep_q = [unit([Term(j)]) for j in range(d)], unit([Term(Q)])
    inputs = [signed_max([Term(j)], A, d) for j in range(d)]
    yield [*inputs, Unit(centers[0], 0.0), inputs[0]]
    for i, center in enumerate(centers[1:]):
        above = unit([Term(j, 1, -w) for j, w in enumerate(center)])
        yield [*copies, above, unit(_finished(heights, i, P, Q))]
        below = unit([Term(P), *(Term(j, -1, w) for j, w in enumerate(center))])
        yield [*copies, below, keep_q]
    yield [unit(_finished(heights, len(heights) - 1, P, Q))]


def _literal_layers(cover: Pyramids, A: float) -> Layers:
    centers, heights = cover.centers.tolist(), cover.heights.tolist()
    d = len(centers[0])
    P, Q, unit = d, d + 1, functools.partial(signed_max, A=A, in_features=d + 2)
    copies, keep_p, keep_q = [unit([Term(j)]) for j in range(d)], unit([Term(P)]), unit([Term(Q)])
    inputs = [signed_max([Term(j)], A, d) for j in range(d)]
    yield [*inputs, inputs[0], inputs[0]]
    for i, center in enumerate(centers):
        differences = [Term(j, sign, -sign * w) for j, w in enumerate(center) for sign in (1, -1)]
        yield [*copies, unit(differences[:1]), keep_q]
        for difference in differences[1:]:
            yield [*copies, unit([Term(P), difference]), keep_q]
        folded = unit(_finished(heights, i, P, Q))
        yield [folded] if i == len(centers) - 1 else [*copies, keep_p, folded]


def _finished(heights: list[float], i: int, P: int, Q: int) -> list[Term]:
    """max(Q, F(w_i) - P) (Eq. 15); the first pyramid overwrites Q, since no unit can hold -inf."""
    pyramid = Term(P, -1, heights[i])
    return [Term(Q), pyramid] if i else [pyramid]
