"""What each budget of a recipe sets: the paper's Tables 5, 6 and 8, and what the smaller budgets make of them."""

from typing import cast

import pandas as pd

from lib.experiments.published import FOLLOWUPS, published
from lib.experiments.summary import shown_eps
from lib.recipes import BUDGETS, Recipe, load

_TABLES = (1, 2, 9, FOLLOWUPS)


def settings() -> pd.DataFrame:
    """One row, of texts, for each budget of every recipe with a row in Tables 1, 2 or 9 or in a follow-up.

    Columns: Recipe; Budget, the paper's first, without `smoke`; Net; Batch; Epochs (at the first p, while p grows, at
    p = inf); p; Rate; Decay; Loss, with its radii in pixels.
    """
    names = dict.fromkeys(name for number in _TABLES for name in published(number)["recipe"] if name)
    budgets = [budget for budget in reversed(BUDGETS) if budget != "smoke"]
    return pd.DataFrame([_row(name, budget, load(name, budget)) for name in names for budget in budgets])


def _row(name: str, budget: str, recipe: Recipe) -> dict[str, str]:
    ladder = ", doubling" if recipe.p_ladder else ""
    return {
        "Recipe": f"`{name}`",
        "Budget": budget,
        "Net": _net(recipe),
        "Batch": str(recipe.batch_size),
        "Epochs": f"{recipe.epochs_const} + {recipe.epochs_ramp} + {recipe.epochs_inf}",
        "p": "none" if recipe.model == "relu-net" else f"{recipe.p_start:g} to {recipe.p_end:g}{ladder}",
        "Rate": f"{recipe.lr:g}",
        "Decay": "none" if recipe.decay == "none" else f"{recipe.weight_decay:g}, {recipe.decay}",
        "Loss": _loss(recipe),
    }


def _net(recipe: Recipe) -> str:
    if recipe.model == "conv-linf-dist-net-mlp":
        return f"Table 8 at {recipe.width} channels, head {recipe.hidden}"
    if recipe.model == "relu-net":
        return f"ReLU net of {recipe.depth} layers, {recipe.width} channels, dense {recipe.hidden}"
    head = f", head {recipe.hidden}" if recipe.hidden else ""
    kept = f", q = {recipe.keep_prob:g}" if recipe.keep_prob is not None else ""
    return f"{recipe.depth} layers of {recipe.width}{head}{kept}"


def _loss(recipe: Recipe) -> str:
    if recipe.eps_train is not None:
        return f"IBP, eps = {_radius(recipe.eps_train)}, kappa = {recipe.kappa_natural:g}"
    theta = _radius(cast(float, recipe.theta))
    if recipe.ce_weight_start is not None:
        weights = f"{recipe.ce_weight_start:g} to {recipe.ce_weight_end:g}"
        return f"clipped hinge, theta = {theta}, lambda = {weights}"
    return f"hinge, theta = {theta}"


def _radius(value: float) -> str:
    text = shown_eps(value)
    return text if len(text) < 8 else f"{255 * value:.4g}/255"
