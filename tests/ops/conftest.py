"""Fixtures of the tests of operations."""

from collections.abc import Iterator

import pytest
import torch
from numba import config


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Threads are again as many as before; skips where Numba was started with one, so that there is none to compare."""
    if config.NUMBA_NUM_THREADS < 2:
        pytest.skip(f"needs two threads of Numba: NUMBA_NUM_THREADS is {config.NUMBA_NUM_THREADS}")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def empties_hold_nan() -> Iterator[None]:
    """torch.empty comes filled with NaN here, so a cell that no kernel wrote shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
