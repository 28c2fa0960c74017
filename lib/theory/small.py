"""Nets that can be trained while a chapter is read: the digits rows, narrower, for a fraction of their quick budget."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from lib import recipes
from lib.nets.models import Net, build
from lib.recipes import Recipe
from lib.training.data import batch, load_data
from lib.training.fit import fit


def small_recipe(name: str = "digits/linf-dist-net", **overrides: Any) -> Recipe:
    """A digits recipe at width 128 for 16 epochs (2 at p = 8, 10 up to 64, 4 at p = inf), with fields overridden."""
    short = {"width": 128, "epochs_const": 2, "epochs_ramp": 10, "epochs_inf": 4}
    warm = {"eps_warmup_epochs": 2} if "mlp" in name else {}
    return recipes.load(name, "quick").replace(**short | warm | overrides)


def at_exponent(recipe: Recipe, p: float, length: int = 1) -> Recipe:
    """The recipe trained at one exponent only, finite or inf, for `length` epochs."""
    if p == float("inf"):
        return recipe.replace(epochs_const=0, epochs_ramp=0, epochs_inf=length)
    fixed = {"p_start": p, "p_end": p, "p_ladder": False}
    return recipe.replace(epochs_const=length, epochs_ramp=0, epochs_inf=0, **fixed)


def digit_images(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The recipe's test images [N, C, H, W] in [0, 1] and their labels [N]."""
    images = load_data(recipe).test
    return batch(images, torch.arange(len(images))), images.labels


def train(net: Any, recipe: Recipe, *, seed: int = 0) -> list[dict[str, float]]:
    """Trains `net` in place on the recipe's training images, on the CPU; gives the history of `fit`, keeps no file."""
    data = load_data(recipe)
    with TemporaryDirectory() as folder:
        return fit(net, recipe, data.train, seed=seed, device="cpu", workdir=Path(folder), progress=False)


def trained(recipe: Recipe, *, seed: int = 0) -> Net:
    """The recipe's own net, drawn and trained from `seed`; in evaluation mode."""
    net = build(recipe, seed)
    train(net, recipe, seed=seed)
    return net
