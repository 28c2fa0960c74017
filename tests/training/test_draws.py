"""Crops and flips against loops over pixels, and what every draw depends on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib import recipes
from lib.training.datasets import Images
from lib.training.draws import augment, epoch_order, step_generator, training_batch


def augment_by_loops(x: Tensor, crop_padding: int, edge: bool, flip: bool, generator: torch.Generator) -> Tensor:
    """The same draws, applied image by image and pixel by pixel."""
    count, _, height, width = x.shape
    top, left = torch.zeros(2, count, dtype=torch.int64)
    if crop_padding:
        top, left = torch.randint(2 * crop_padding + 1, (2, count), generator=generator) - crop_padding
    mirrored = torch.randint(2, (count, 1, 1, 1), generator=generator).flatten() if flip else torch.zeros(count)
    out = torch.zeros_like(x)
    for b in range(count):
        for row in range(height):
            for column in range(width):
                r, c = row + int(top[b]), column + int(left[b])
                inside = 0 <= r < height and 0 <= c < width
                if inside or edge:
                    nearest = x[b, :, min(max(r, 0), height - 1), min(max(c, 0), width - 1)]
                    out[b, :, row, width - 1 - column if mirrored[b] else column] = nearest
    return out


class TestAugment:
    @given(
        shape=st.tuples(st.integers(0, 5), st.sampled_from([1, 3]), st.integers(1, 7), st.integers(1, 7)),
        crop_padding=st.integers(0, 3),
        edge=st.booleans(),
        flip=st.booleans(),
        seed=st.integers(0, 100),
    )
    @settings(deadline=None, max_examples=50)
    def test_each_image_is_cropped_from_its_padding_then_mirrored(self, shape, crop_padding, edge, flip, seed):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        generator = step_generator(seed, 0, 0)
        out = augment(x, crop_padding=crop_padding, crop_edge=edge, flip=flip, generator=generator)
        assert torch.equal(out, augment_by_loops(x, crop_padding, edge, flip, step_generator(seed, 0, 0)))

    def test_larger_images_are_cropped_at_every_offset_equally_often(self):
        x = torch.arange(36.0).view(1, 1, 6, 6).expand(8100, 1, 6, 6)
        out = augment(x, crop_padding=0, flip=False, generator=step_generator(0, 0, 0), size=(4, 4))
        assert out.shape == (8100, 1, 4, 4)
        corners = out[:, 0, 0, 0].int().bincount(minlength=15)[[0, 1, 2, 6, 7, 8, 12, 13, 14]]
        assert (corners / 900).tolist() == pytest.approx([1] * 9, abs=0.15)
        assert torch.equal(out[:, 0] - out[:, :, :1, 0:1][:, 0], (x[0, 0, :4, :4]).expand(8100, 4, 4))

    def test_without_crop_and_flip_nothing_changes_and_nothing_is_drawn(self):
        x, generator = torch.rand(3, 1, 4, 4), step_generator(0, 0, 0)
        before = generator.get_state()
        assert torch.equal(augment(x, crop_padding=0, flip=False, generator=generator), x)
        assert torch.equal(generator.get_state(), before)

    def test_every_offset_and_both_sides_occur_about_equally_often(self):
        dot = torch.zeros(9000, 1, 5, 4)
        dot[:, :, 2, 1] = 1
        out = augment(dot, crop_padding=1, flip=False, generator=step_generator(0, 0, 0)).mean((0, 1))
        assert out[1:4, 0:3].flatten().tolist() == pytest.approx([1 / 9] * 9, abs=0.015)
        mirrored = augment(dot, crop_padding=0, flip=True, generator=step_generator(0, 0, 0)).mean((0, 1))
        assert mirrored[2, 1:3].tolist() == pytest.approx([0.5, 0.5], abs=0.02)


class TestDraws:
    def test_an_epoch_sees_every_image_once(self):
        for n in (0, 1, 63, 500):
            assert epoch_order(n, seed=1, epoch=2).sort().values.tolist() == list(range(n))

    def test_draws_depend_on_seed_epoch_and_step_alone(self):
        def first(*place: int) -> int:
            return int(torch.randint(2**62, (1,), generator=step_generator(*place)))

        places = [(seed, epoch, step) for seed in (0, 1, 2**40) for epoch in (0, 1, 70) for step in (0, 1, 300)]
        assert len({first(*place) for place in places}) == len(places)
        assert [first(*place) for place in places] == [first(*place) for place in places]

    def test_the_order_depends_on_seed_and_epoch(self):
        orders = [epoch_order(500, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
        assert len({tuple(order.tolist()) for order in orders}) == 4
        assert torch.equal(orders[1], epoch_order(500, 0, 1))

    def test_the_order_does_not_share_its_draws_with_the_first_step(self):
        assert not torch.equal(epoch_order(500, 3, 4), torch.randperm(500, generator=step_generator(3, 4, 0)))

    def test_the_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        epoch_order(10, 0, 0)
        augment(torch.rand(0, 1, 4, 4), crop_padding=1, flip=True, generator=step_generator(0, 0, 0))
        assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_is_cut_to_the_input_of_the_recipe():
    recipe = recipes.load("tiny-imagenet/linf-dist-net-mlp", "paper")
    images = Images(torch.rand(4, 3, 64, 64), torch.arange(4), 1.0)
    x = training_batch(images, recipe, torch.tensor([2, 0]), step_generator(0, 0, 0))
    assert x.shape == (2, *recipe.input_shape) == (2, 3, 56, 56)


def test_draws_are_those_of_the_runs_on_record():
    assert epoch_order(6, 1, 2).tolist() == [4, 0, 2, 1, 3, 5]
    assert torch.randint(100, (3,), generator=step_generator(1, 2, 3)).tolist() == [13, 9, 69]
