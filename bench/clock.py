"""Seconds of a piece of work, on the CPU or on a GPU."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from lib.experiments.speed import Timing

RUNS = 5
# A run shorter than this would measure the clock: short work is repeated within a run.
_LEAST_SECONDS = 0.01
# A GPU that was idle takes so long to raise its frequency.
_WARM_SECONDS = 0.5

Work = Callable[[], object]
# What a section finds: timings, and who was left out for which reason.
Found = Iterator[Timing | tuple[str, str]]


def once(work: Work, repeats: int = 1) -> float:
    """Seconds of one execution, from an idle GPU to an idle GPU."""
    _wait()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait()
    return (time.perf_counter() - began) / repeats


def runs(work: Work, count: int = RUNS) -> tuple[float, ...]:
    """Seconds of each of `count` runs, after one that is left out: it may compile."""
    work()
    _warm(work)
    repeats = max(1, int(_LEAST_SECONDS / once(work)))
    return tuple(once(work, repeats) for _ in range(count))


def in_turn(works: Sequence[Work], count: int = RUNS) -> list[tuple[float, ...]]:
    """Seconds of each of `count` runs of each piece, one after the other in each round, so that all meet one load."""
    for work in works:
        work()
    _warm(*works)
    return list(zip(*([once(work) for work in works] for _ in range(count)), strict=True))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _warm(*works: Work) -> None:
    if torch.cuda.is_available():
        began = time.perf_counter()
        while time.perf_counter() - began < _WARM_SECONDS:
            for work in works:
                once(work)
