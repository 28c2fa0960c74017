"""What the CPU kernels are handed: matrices padded to whole blocks, room for what they find, and how to share the work.

The constants are those of cpu_tiles.py; it is imported on the first call, and Numba with it.
"""

import importlib
from types import ModuleType

import torch.nn.functional as F
from torch import Tensor

# Least tasks of a pass, a few for each of some 16 threads; and the least samples that pay for the copy of a panel of
# weights, which a task of the forward makes.
_FORWARD_TASKS, _BACKWARD_TASKS, _LEAST_STRIPE = 64, 16, 64


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


def shape(x: Tensor, w: Tensor) -> tuple[int, int, int, int, int]:
    """Stripes of samples, samples, features, panels of outputs, and outputs.

    A task of a forward pass is one panel with one stripe: few panels need several stripes to make tasks enough.
    """
    panels = -(-len(w) // tiles().WIDTH)
    stripes = min(-(-_FORWARD_TASKS // panels), -(-len(x) // _LEAST_STRIPE))
    return stripes, len(x), x.shape[1], panels, len(w)


def slabs(x: Tensor, units: int) -> Tensor:
    """Room [S, B, I] for the gradient in x of each share of the outputs, which come in units.

    Shares keep all threads busy where there are few blocks of inputs.
    """
    return x.new_empty(min(units, -(-_BACKWARD_TASKS // (x.shape[1] // tiles().BLOCK))), *x.shape)


def shares(slabs: Tensor) -> tuple[int, int, int]:
    """Shares of the outputs, blocks of inputs, and samples."""
    return len(slabs), slabs.shape[2] // tiles().BLOCK, slabs.shape[1]


def crop(a: Tensor, rows: int, cols: int) -> Tensor:
    """The first so many rows and columns, without what padded them."""
    return a[:rows, :cols].contiguous()
