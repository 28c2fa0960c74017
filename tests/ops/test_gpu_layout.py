"""How the work of the GPU kernels is laid out: tiles, slices and columns, on any device."""

import pytest
import torch

from lib.ops import gpu_layout


@pytest.mark.parametrize(("features", "columns"), [(1, 32), (27, 32), (64, 64), (65, 128), (128, 128), (5120, 128)])
def test_few_features_are_not_padded_to_many(features: int, columns: int) -> None:
    assert gpu_layout.columns_of(features) == columns


@pytest.mark.parametrize(("vectors", "tile"), [(0, 16), (1, 16), (10, 16), (17, 32), (64, 64), (65, 64), (5120, 64)])
def test_few_samples_or_outputs_are_not_padded_to_many(vectors: int, tile: int) -> None:
    assert gpu_layout.tile_of(vectors) == tile


@pytest.mark.parametrize(
    ("samples", "outputs", "features", "slices"),
    [
        (512, 10, 5120, 64),
        (512, 10, 127, 1),
        (1, 1, 128, 2),
        (0, 4, 640, 10),
        (64 * 33, 64 * 16, 64, 1),
        (3, 5, 1040, 13),
    ],
)
def test_few_outputs_share_their_inputs_among_programs(samples: int, outputs: int, features: int, slices: int) -> None:
    x_t, w_t = gpu_layout.sliced(torch.ones(samples, features), torch.ones(outputs, features))
    assert x_t.shape[1] == w_t.shape[1] == slices
    assert (slices - 1) * len(x_t) < features <= slices * len(x_t)
    # else the hint of `first_in_span` is false, and a GPU stops at a misaligned address
    assert slices == 1 or len(x_t) % gpu_layout.SPAN == 0
    assert x_t.sum() == samples * features and w_t.sum() == outputs * features  # the rest is zeros


def test_a_tile_is_done_again_where_it_holds_a_pair_in_every_slice() -> None:
    some = torch.zeros(127, 130, dtype=torch.bool)
    some[126, 0] = some[5, 100] = True
    # programs run through the tiles of samples, those of all slices, and then on to the next outputs
    assert gpu_layout.tiles_with(some, 2).flatten().tolist() == [0, 1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0]
