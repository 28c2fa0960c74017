"""The training losses: multi-class hinge and its clipped successor for plain nets, IBP loss for the composite net."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.nets.base import margin


def hinge_loss(logits: Tensor, y: Tensor, theta: float, mix: float) -> Tensor:
    """Multi-class hinge (paper Section 5): the mean over the batch of

        mix * max(0, max_i v_i) + (1 - mix) * (1/K) sum_i max(0, v_i),
        v_i = f_i - f_y + theta for i != y, v_y = 0.

    Args:
        logits: f, [B, K] with B >= 1.
        y: labels [B], integers in [0, K).
        theta: threshold on the margin, in units of the logits: pixels divided by the net's std.
        mix: rho in [0, 1], the weight of the largest violation against their mean over classes.

    Raises:
        TypeError: labels that are no integers.
        ValueError: labels out of range (noticed on a CPU, and not in compiled code), empty or mismatched batch,
            theta not positive and finite, mix outside [0, 1].
    """
    y = _labels("logits", logits, y)
    _check_theta(theta)
    _check_weight("mix", mix)
    label = y.unsqueeze(1)
    violations = logits - logits.gather(1, label) + theta
    positive = violations.scatter(1, label, 0.0).clamp_min(0.0)
    return (mix * positive.amax(1) + (1 - mix) * positive.mean(1)).mean()


def clipped_hinge_loss(logits: Tensor, y: Tensor, theta: float, ce_weight: float, logit_scale: Tensor) -> Tensor:
    """Scaled cross-entropy plus clipped hinge (ICLR 2022, Section 4): the mean over the batch of

        ce_weight * CE(logit_scale * f, y) + min(1, max(0, 1 - margin / theta)),  margin = f_y - max_{i != y} f_i.

    The hinge counts what is not certified at theta / 2 and does not pull on samples that are wrong (margin < 0); the
    cross-entropy keeps those moving, and matters most while p is small and no margin means much yet.

    Args:
        logits: f, [B, K] with B >= 1.
        y: labels [B], integers in [0, K).
        theta: threshold on the margin, in units of the logits: pixels divided by the net's std.
        ce_weight: lambda, at least 0.
        logit_scale: s, a scalar; learned with the net, and of no use after training.

    Raises:
        TypeError: labels that are no integers.
        ValueError: labels out of range (noticed on a CPU, and not in compiled code), empty or mismatched batch,
            theta not positive and finite, ce_weight negative or not finite.
    """
    y = _labels("logits", logits, y)
    _check_theta(theta)
    if not (_is_finite(ce_weight) and ce_weight >= 0):
        raise ValueError(f"ce_weight is {ce_weight!r}, expected a finite number of at least 0")
    hinge = (1 - margin(logits, y) / theta).clamp(0.0, 1.0)
    return ce_weight * F.cross_entropy(logit_scale * logits, y) + hinge.mean()


def ibp_loss(logits: Tensor, margin_ub: Tensor, y: Tensor, kappa_natural: float) -> Tensor:
    """Natural and worst-case cross-entropy (Eq. 22): kappa * CE(logits, y) + (1 - kappa) * CE(margin_ub, y).

    Args:
        logits: z(x), [B, K] with B >= 1.
        margin_ub: upper bounds of the margins z_i - z_y over the box (Eq. 21), [B, K], 0 at y.
        y: labels [B], integers in [0, K).
        kappa_natural: kappa in [0, 1], the weight of the natural term.

    Raises:
        TypeError: labels that are no integers.
        ValueError: labels out of range (noticed on a CPU, and not in compiled code), empty or mismatched batch,
            kappa_natural outside [0, 1].
    """
    y = _labels("logits", logits, y)
    _labels("margin_ub", margin_ub, y)
    _check_weight("kappa_natural", kappa_natural)
    natural, worst = F.cross_entropy(logits, y), F.cross_entropy(margin_ub, y)
    return kappa_natural * natural + (1 - kappa_natural) * worst


def _labels(name: str, logits: Tensor, y: Tensor) -> Tensor:
    """The labels y [B] of logits [B, K] as int64, once both are what they should be."""
    if y.is_floating_point() or y.is_complex() or y.dtype is torch.bool:
        raise TypeError(f"y is of {y.dtype}, expected integer labels")
    if logits.dim() != 2 or len(logits) == 0 or y.shape != logits.shape[:1]:
        raise ValueError(
            f"{name} and y have shapes {list(logits.shape)} and {list(y.shape)}, expected [B, K] and [B] with B >= 1"
        )
    y = y.long()
    # a GPU would wait for the answer in every step, and compiled code break at it
    if y.device.type == "cpu" and not torch.compiler.is_compiling():
        first, last = (int(end) for end in y.aminmax())
        if first < 0 or last >= logits.shape[1]:
            raise ValueError(f"y has labels from {first} to {last}, expected 0 to {logits.shape[1] - 1}")
    return y


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real | Tensor) and math.isfinite(value)


def _check_theta(theta: float) -> None:
    if not (_is_finite(theta) and theta > 0):
        raise ValueError(f"theta is {theta!r}, expected a positive number in units of the logits")


def _check_weight(name: str, value: float) -> None:
    if not (_is_finite(value) and 0.0 <= value <= 1.0):
        raise ValueError(f"{name} is {value!r}, expected a weight between 0 and 1")
