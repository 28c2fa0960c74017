"""What the GPU kernels are handed: matrices of whole tiles, one feature after another, and how to share the work."""

import math

from torch import Tensor

from lib.ops.padding import padded

# A program of the forward has up to TILE x TILE pairs, 32 of them in the registers of each thread: a step loads 12
# values for these and is nearly all arithmetic.
LEAST_TILE, TILE, WARPS = 16, 64, 4
# A program of the backward at finite p is one warp, with so many outputs and from LEAST_COLS to COLS inputs: of COLS a
# thread holds all rows of four.
ROWS, LEAST_COLS, COLS, BACKWARD_WARPS = 16, 32, 128, 1
LEAST_PROGRAMS = 528  # one for each scheduler of an H200
# A forward of fewer tiles takes its inputs in slices, of so many or more: one program for each tile and slice.
LEAST_SLICE = 64
SPAN = 16  # inputs among which the first maximum is looked for


def sliced(*matrices: Tensor) -> list[Tensor]:
    """Each [rows, I] as [I / S, S, rows], S slices of its features: as many as make programs enough with the tiles.

    One feature of all rows is one contiguous vector, of whole tiles, and several slices are of whole spans, so that a
    span starts at a multiple of SPAN, as `first_in_span` is told. Zeros fill up, which change no distance.
    """
    tiles = math.prod(-(-len(a) // tile_of(len(a))) for a in (matrices[0], matrices[-1]))
    features = matrices[0].shape[1]
    most = max(1, min(LEAST_PROGRAMS // max(1, tiles), features // LEAST_SLICE))
    length = features if most == 1 else -(-features // (most * SPAN)) * SPAN
    count = -(-features // length)
    whole = (padded(a, tile_of(len(a)), count * length) for a in matrices)
    return [a.unflatten(1, (count, length)).permute(2, 1, 0).contiguous() for a in whole]


def tiles_with(some: Tensor, slices: int) -> Tensor:
    """For each program of a forward in so many slices, whether its tile has any of some pairs [B, O]; int32."""
    rows, cols = (tile_of(n) for n in some.shape)
    tiles = padded(some, rows, cols).unflatten(1, (-1, cols)).any(2).unflatten(0, (-1, rows)).any(1)
    return tiles.T[:, None].expand(-1, slices, -1).int().contiguous()


def columns_of(features: int) -> int:
    """Inputs of a program of the backward at finite p: few are padded to a power of two, many to multiples of COLS."""
    return _within(LEAST_COLS, features, COLS)


def tile_of(vectors: int) -> int:
    """Samples, or outputs, of a program of the forward: few are padded to a power of two, many to multiples of TILE."""
    return _within(LEAST_TILE, vectors, TILE)


def _within(least: int, count: int, most: int) -> int:
    return min(most, max(least, 1 << (count - 1).bit_length()))
