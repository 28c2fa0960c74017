"""The sizes and shapes that the CPU kernels share with those who call them, and who know them without Numba."""

from typing import NamedTuple

WIDTH = 16  # float32 lanes of a vector
BLOCK = 32  # inputs of a block
ROWS = 4  # samples of a tile of WIDTH outputs: eight registers of AVX2 for the results, eight to work with
MOST_LARGEST = 10  # order statistics that are kept, at most WIDTH: a constant keeps the loops over them straight
WORD = 64  # inputs looked at together: how often a loop ends is what a processor guesses wrong
HUGE = 3e38  # stands for the inverse of 0


class Grid(NamedTuple):
    """The tasks of a forward pass: each is one panel of WIDTH outputs with one stripe of the samples."""

    stripes: int
    samples: int
    features: int
    panels: int
    outputs: int


class Shares(NamedTuple):
    """The tasks of a backward pass: each is one block of inputs with one share of the outputs."""

    shares: int
    blocks: int
    samples: int
    outputs: int
