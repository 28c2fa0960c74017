"""How many vector instructions the machine issues, measured on chains that need neither memory nor each other."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, prange, set_num_threads

from bench import clock
from bench.clock import Found
from lib.experiments.speed import Timing
from lib.ops.cpu_shapes import WIDTH
from lib.ops.kernels.simd import larger_size, load, multiply_add, size, splat, store

# Chains of one group, and groups: twelve chains keep every unit busy where there are 32 registers, six fill sixteen.
CHAINS, _GROUPS = 6, (1, 2)
_ROUNDS = 4_000_000
_TASKS = 16


@njit
def _multiplications(a: Any, c: Any, d: Any) -> Any:
    """Four multiplications, each waiting for the one before."""
    for _ in range(4):
        a = multiply_add(a, c, d)
    return a


@njit
def _any_instructions(a: Any, c: Any, d: Any) -> Any:
    """What a term of a maximum takes: subtract, clear the sign, maximise."""
    return larger_size(size(a - c), d)


def _probe(step: Callable[[Any, Any, Any], Any], groups: int) -> Any:
    @njit
    def group(chains: Any, c: Any, d: Any) -> Any:
        a0, a1, a2, a3, a4, a5 = chains
        return step(a0, c, d), step(a1, c, d), step(a2, c, d), step(a3, c, d), step(a4, c, d), step(a5, c, d)

    @njit
    def largest(chains: Any) -> Any:
        a0, a1, a2, a3, a4, a5 = chains
        return larger_size(larger_size(larger_size(a0, a1), larger_size(a2, a3)), larger_size(a4, a5))

    @njit(parallel=True)
    def run(out: Any, rounds: int, half: np.float32, most: np.float32) -> None:
        # Values go to a fixed point between 0.1 and 1: nothing overflows or is subnormal.
        for task in prange(_TASKS):
            c, d, a = splat(half), splat(most), load(out, task * WIDTH)
            first = second = (a, a, a, a, a, a)
            for _ in range(rounds // _TASKS):
                first = group(first, c, d)
                if groups == 2:
                    second = group(second, c, d)
            store(out, task * WIDTH, larger_size(largest(first), largest(second)))

    return run


def sections(device: str) -> dict[str, Callable[[], Found]]:
    """The section "probe"."""
    return {"probe": lambda: _probes(device)}


def _probes(device: str) -> Found:
    if device != "cpu":
        yield "probe", "counts instructions of the CPU"
        return
    set_num_threads(torch.get_num_threads())
    for what, step, count in (("multiplications", _multiplications, 4), ("any instructions", _any_instructions, 3)):
        yield max((_measured(what, step, count, groups) for groups in _GROUPS), key=lambda timing: timing.rate)


def _measured(what: str, step: Callable[[Any, Any, Any], Any], count: int, groups: int) -> Timing:
    kernel, out = _probe(step, groups), np.ones(_TASKS * WIDTH, np.float32)
    work = functools.partial(kernel, out, _ROUNDS, np.float32(0.5), np.float32(0.3))
    sizes = (CHAINS * groups * WIDTH, count)
    return Timing(what=what, who="probe", p=math.inf, batch=_ROUNDS, widths=sizes, seconds=clock.runs(work))
