"""What the CPU kernels are handed: flat arrays, room for what they find, and how to share the work."""

from typing import Any

from torch import Tensor

from lib.ops.cpu_shapes import BLOCK, ROWS, WIDTH, Grid, Shares

# Least tasks of a pass, a few for each of some 16 threads; and the least samples that pay for the copy of a panel of
# weights, which a task of the forward makes.
_FORWARD_TASKS, _BACKWARD_TASKS, _LEAST_STRIPE = 64, 16, 64
# Terms that are worth a thread: some microseconds of work, as long as it takes to start one.
_THREAD_TERMS = 2**16


def flat(*tensors: Tensor) -> list[Any]:
    """The entries of each in its memory, which a kernel may write to; of a copy where they are not contiguous."""
    return [each.flatten().numpy() for each in tensors]


def threads(terms: int) -> int:
    """How many threads so many terms are worth."""
    return 1 + terms // _THREAD_TERMS


def room(x: Tensor, w: Tensor) -> Tensor:
    """Room for y [B, O] with both sides padded to whole tiles."""
    return x.new_empty(-(-len(x) // ROWS) * ROWS, -(-len(w) // WIDTH) * WIDTH)


def grid(x: Tensor, w: Tensor) -> Grid:
    """The tasks of a forward pass over x [B, I] and w [O, I]: few panels need several stripes to make tasks enough."""
    panels = -(-len(w) // WIDTH)
    stripes = min(-(-_FORWARD_TASKS // panels), -(-len(x) // _LEAST_STRIPE))
    return Grid(stripes, len(x), x.shape[1], panels, len(w))


def slabs(x: Tensor, units: int) -> Tensor:
    """Room [S, B, I] for the gradient in x of each share of the outputs, which come in units.

    Shares keep all threads busy where there are few blocks of inputs.
    """
    return x.new_empty(min(units, -(-_BACKWARD_TASKS // (x.shape[1] // BLOCK))), *x.shape)


def shares(slabs: Tensor, outputs: int) -> Shares:
    """The tasks of a backward pass with these slabs for the gradient in x."""
    return Shares(len(slabs), slabs.shape[2] // BLOCK, slabs.shape[1], outputs)
