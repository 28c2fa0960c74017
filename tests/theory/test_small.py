"""Nets trained while a chapter is read."""

import math

import pytest
import torch

from lib.theory.small import at_exponent, digit_images, small_recipe, trained
from lib.training.schedules import p_at

TINY = {"width": 16, "depth": 2, "epochs_const": 1, "epochs_ramp": 0, "epochs_inf": 1}


@pytest.mark.parametrize("name", ["digits/linf-dist-net", "digits/linf-dist-net-mlp"])
def test_a_small_recipe_ends_at_p_inf_and_is_shorter_than_the_quick_one(name: str) -> None:
    recipe = small_recipe(name, width=32)
    assert (recipe.name, recipe.width, recipe.epochs) == (name, 32, 16)
    assert p_at(recipe, recipe.epochs - 0.01) == math.inf


@pytest.mark.parametrize("p", [1, 8.0, 37.3, math.inf])
def test_one_exponent_from_beginning_to_end(p: float) -> None:
    recipe = at_exponent(small_recipe(), p, 3)
    assert recipe.epochs == 3
    assert {p_at(recipe, progress) for progress in (0, 1.5, 2.99)} == {p}


def test_images_are_the_test_images_of_the_digits() -> None:
    x, y = digit_images(small_recipe())
    assert (x.shape, y.shape) == ((360, 1, 8, 8), (360,))
    assert (x.min(), x.max()) == (0, 1)


def test_a_net_is_a_function_of_its_seed_and_learns() -> None:
    recipe = small_recipe(**TINY)
    state = torch.random.get_rng_state()
    one, again, other = (trained(recipe, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not one.training
    assert torch.equal(one.top.weight, again.top.weight)
    assert not torch.equal(one.top.weight, other.top.weight)
    x, y = digit_images(recipe)
    assert (one(x, 8.0).argmax(1) == y).double().mean() > 0.3
