"""What changes during training, as pure functions of progress: the epochs elapsed, step / (steps per epoch), a float.

The phases (paper Section 5, Table 6): epochs_const at p_start, epochs_ramp up to p_end, epochs_inf at p = inf.
"""

import math
from typing import NamedTuple

from lib.recipes import Recipe


class Knobs(NamedTuple):
    """What one training step is run with."""

    p: float  # exponent of the distances, and of the l_p decay
    lr: float  # learning rate
    eps: float  # radius of the training box, pixels; 0 for the hinge
    kappa: float  # weight of the natural cross-entropy (Eq. 22), constant; 1 for the hinge, which has no box
    ce_weight: float  # weight of the cross-entropy beside the clipped hinge; 0 without one


def knobs_at(recipe: Recipe, progress: float) -> Knobs:
    """All knobs after `progress` epochs. Raises ValueError unless progress is finite and at least 0."""
    if not (math.isfinite(progress) and progress >= 0):
        raise ValueError(f"progress is {progress}, expected the epochs elapsed, a finite number of at least 0")
    return Knobs(
        p=p_at(recipe, progress),
        lr=lr_at(recipe, progress),
        eps=eps_at(recipe, progress),
        kappa=1.0 if recipe.kappa_natural is None else recipe.kappa_natural,
        ce_weight=ce_weight_at(recipe, progress),
    )


def p_at(recipe: Recipe, progress: float) -> float:
    """The exponent: p_start, then p_start * (p_end / p_start)^r at the share r of the ramp, then inf.

    With `p_ladder`, the powers of two from p_start to p_end instead, for equal shares of the ramp.
    """
    elapsed = progress - recipe.epochs_const
    if elapsed < 0:
        return recipe.p_start
    if elapsed >= recipe.epochs_ramp:
        return math.inf
    ratio, share = recipe.p_end / recipe.p_start, elapsed / recipe.epochs_ramp
    if not recipe.p_ladder:
        return float(recipe.p_start * ratio**share)
    rungs = round(math.log2(ratio)) + 1
    return recipe.p_start * 2.0 ** min(math.floor(share * rungs), rungs - 1)


def lr_at(recipe: Recipe, progress: float) -> float:
    """The learning rate: constant during epochs_const, then lr * (1 + cos(pi s)) / 2 at the share s of the rest.

    With `cosine_from_start` there is no constant part, and the rest is the whole run.
    """
    constant = 0 if recipe.cosine_from_start else recipe.epochs_const
    rest = recipe.epochs - constant
    elapsed = min(progress - constant, rest)
    if elapsed <= 0:
        return recipe.lr
    return recipe.lr * (1 + math.cos(math.pi * elapsed / rest)) / 2


def eps_at(recipe: Recipe, progress: float) -> float:
    """The radius of the training box in pixels: linear from 0 to eps_train over eps_warmup_epochs; 0 for the hinge."""
    if recipe.eps_train is None:
        return 0.0
    if progress >= recipe.eps_warmup_epochs:
        return recipe.eps_train
    return recipe.eps_train * progress / recipe.eps_warmup_epochs


def ce_weight_at(recipe: Recipe, progress: float) -> float:
    """lambda of the clipped-hinge loss: from ce_weight_start to ce_weight_end, geometrically along the ramp of p.

    Constant before and after it; 0 for the other losses.
    """
    start, end = recipe.ce_weight_start, recipe.ce_weight_end
    if start is None or end is None:
        return 0.0
    elapsed = progress - recipe.epochs_const
    if elapsed <= 0:
        return start
    if elapsed >= recipe.epochs_ramp:
        return end
    return float(start * (end / start) ** (elapsed / recipe.epochs_ramp))
