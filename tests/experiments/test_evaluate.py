"""The table of a run: its columns are those of the public functions, and clean images are predicted once."""

from typing import Any

import numpy as np
import pytest
import torch

import lib
from lib.experiments import evaluate as module
from lib.experiments.evaluate import curve_radii, evaluate
from lib.nets.models import build
from lib.recipes import load
from lib.training.data import batch, load_data


def test_every_attack_draws_from_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, seeds = load("digits/linf-dist-net", "smoke").replace(test_limit=20), []
    whole = module.adversarial_images

    def spied(*arguments: Any) -> torch.Tensor:
        seeds.append(arguments[-1])
        return whole(*arguments)

    monkeypatch.setattr(module, "adversarial_images", spied)
    evaluate(build(recipe).eval(), recipe, load_data(recipe).test, seed=3)
    assert seeds == [3] * 6


def test_columns_are_those_of_the_public_functions_and_clean_images_are_predicted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = load("digits/linf-dist-net", "smoke")
    net, images = build(recipe, seed=0).eval(), load_data(recipe).test
    x, seen = batch(images, torch.arange(len(images))), []
    whole = module.executed_logits

    def counted(net: Any, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(torch.equal(pixels, x))
        return whole(net, pixels)

    monkeypatch.setattr(module, "executed_logits", counted)
    table = evaluate(net, recipe, images, seed=3)
    assert seen.count(True) == 1 and seen.count(False) == 6
    arguments = recipe.eps_test, recipe.pgd_steps
    assert (table.prediction == net(x).argmax(1).numpy()).all() and table.clean.any()
    for column, radius in enumerate(curve_radii(recipe.eps_test)):
        survived = lib.robust_correct(net, x, images.labels, radius, recipe.pgd_steps, seed=3)
        np.testing.assert_array_equal(table.survived[:, column], survived.numpy())
    strong = lib.robust_correct(net, x, images.labels, *arguments, "smooth", 3)
    np.testing.assert_array_equal(table.robust_strong, table.robust & strong.numpy())
    for method in ("margin", "interval"):
        certified = lib.certify(net, x, images.labels, recipe.eps_test, method).certified
        np.testing.assert_array_equal(table.certified[method], certified.numpy())
