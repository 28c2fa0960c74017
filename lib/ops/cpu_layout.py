"""How inputs and weights lie in memory for the CPU kernels: padded to whole blocks and tiles, outputs side by side.

The layouts are named in cpu_tiles.py, whose constants they follow; it is imported on the first call, and Numba with it.
"""

import importlib
from types import ModuleType

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lib.ops.compiled import ready

# Tasks of a backward pass, at least: a few for each of as many threads as most machines have.
_BACKWARD_TASKS = 16


def tiles() -> ModuleType:
    """The constants of the kernels' tiles: WIDTH, BLOCK, ROWS, HUGE."""
    return importlib.import_module("lib.ops.cpu_tiles")


def whole_blocks(a: Tensor) -> Tensor:
    """[rows, I] with I padded to whole blocks by zeros: x = w = 0 there, which changes no distance."""
    return pad(a, 0, -a.shape[1] % tiles().BLOCK)


def pad(a: Tensor, rows: int, cols: int) -> Tensor:
    """The matrix with so many rows and columns of zeros behind its own."""
    return F.pad(a, (0, cols, 0, rows)) if rows or cols else a


def room(x: Tensor, w: Tensor) -> Tensor:
    """Room for y [B, O] with both sides padded to whole tiles."""
    k = tiles()
    return x.new_empty(-(-len(x) // k.ROWS) * k.ROWS, -(-len(w) // k.WIDTH) * k.WIDTH)


def shape(x: Tensor, w: Tensor) -> tuple[int, int, int]:
    """Samples, features and panels of outputs."""
    return len(x), x.shape[1], -(-len(w) // tiles().WIDTH)


def lanes(w: Tensor, scale: float = 1.0) -> NDArray[np.float32]:
    """[O, I] -> [P, I, WIDTH], flat: panels of outputs side by side, the last filled up with its last, scaled."""
    outputs, features = w.shape
    panels = -(-outputs // tiles().WIDTH)
    packed = np.empty(panels * features * tiles().WIDTH, np.float32)
    ready("cpu_forward").pack_lanes(w.flatten().numpy(), np.float32(scale), packed, outputs, features)
    return packed


def blocks(a: Tensor) -> Tensor:
    """[rows, I] -> [N, rows, BLOCK]."""
    return a.view(len(a), -1, tiles().BLOCK).transpose(0, 1).contiguous()


def unblock(a: Tensor, like: Tensor) -> Tensor:
    """The inverse of `blocks`, without what padded the rows and columns of `like`."""
    rows, cols = like.shape
    return a.transpose(0, 1).reshape(a.shape[1], -1)[:rows, :cols].contiguous()


def slabs(x_blocks: Tensor, units: int) -> Tensor:
    """Zeros [S, N, B, BLOCK] for the gradient in x of each share of the outputs, which come in units.

    Shares keep all threads busy where there are few blocks of inputs.
    """
    shares = min(units, -(-_BACKWARD_TASKS // len(x_blocks)))
    return x_blocks.new_zeros(shares, *x_blocks.shape)
