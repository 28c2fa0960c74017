"""Proposition A.2: what one l_inf-dist neuron can compute exactly, once its inputs are known to be bounded."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from lib.nets.layers import LInfDist


class Term(NamedTuple):
    """sign * v[unit] + offset, one entry of a signed maximum; sign is +1 or -1."""

    unit: int
    sign: int = 1
    offset: float = 0.0


class Unit(NamedTuple):
    """The neuron v -> ||v - weight||_inf + bias (Eq. 2); weight has one entry for each input."""

    weight: list[float]
    bias: float


def signed_max(terms: Iterable[Term], A: float, in_features: int) -> Unit:
    """The neuron v -> max_(i in T) (s_i v_i + c_i), for inputs |v_j| <= C and any A >= 2C + max |c_i|.

    w_i = -s_i (A + c_i) for i in T, w_j = 0 elsewhere, b = -A. Far from the origin a distance has only one branch:
    |v_i - w_i| = A + c_i + s_i v_i, which is at least A - |c_i| - C >= C >= |v_j| for each unused j. One term is the
    projection v_j (11) or the negation -v_j (12), two are the maximum of a possibly negated unit plus a constant and
    another unit (13). A unit enters with one sign only, since w_i lies on one side.

    Args:
        terms: s_i, c_i and i of T; at least one.
        A: where the branch is chosen; with smaller A, or larger inputs, the value is another one.
        in_features: number of inputs.

    Raises:
        ValueError: no term, a unit twice or outside 0..in_features - 1, a sign other than +1 and -1, or A < max |c_i|,
            with which no bound C is left.
    """
    terms = list(terms)
    _check(terms, A, in_features)
    weight = [0.0] * in_features
    for unit, sign, offset in terms:
        weight[unit] = -sign * (A + offset)
    return Unit(weight, -A)


def distance_layer(units: Sequence[Unit], dtype: torch.dtype | None = None) -> LInfDist:
    """The `LInfDist` layer [B, I] -> [B, O] made of O neurons over the same I inputs; no mean shift, nothing to train.

    Args:
        units: the neurons.
        dtype: of the parameters; None is torch's default.
    """
    with torch.device("meta"):  # the initial draw would move torch's generator, and is not needed
        layer = LInfDist(len(units[0].weight), len(units), bias=True, mean_shift=False, identity=0)
    layer.weight = nn.Parameter(torch.tensor([unit.weight for unit in units], dtype=dtype))
    layer.bias = nn.Parameter(torch.tensor([unit.bias for unit in units], dtype=dtype))
    return layer.requires_grad_(False)


def _check(terms: list[Term], A: float, in_features: int) -> None:
    units = [term.unit for term in terms]
    if not terms:
        raise ValueError("terms is empty, expected at least one: no neuron computes the maximum of nothing")
    if len(set(units)) < len(units):
        raise ValueError(f"terms use the units {units}, expected each at most once")
    for unit, sign, _ in terms:
        if not 0 <= unit < in_features:
            raise ValueError(f"a term uses unit {unit}, expected 0 to {in_features - 1}")
        if sign not in (1, -1):
            raise ValueError(f"the sign of unit {unit} is {sign}, expected 1 or -1")
    largest = max(abs(term.offset) for term in terms)
    if not largest <= A < math.inf:
        raise ValueError(f"A is {A}, expected a finite number of at least max |c_i| = {largest}")
