"""Numba kernels on demand: imported on the first call, with as many threads as torch has."""

import importlib
from types import ModuleType

import torch


def ready(kernels: str) -> ModuleType:
    """The module of that name in lib.ops; its kernels then run with torch.get_num_threads(), which stays the one knob.

    Fewer where Numba was started with fewer. Results do not depend on it.
    """
    module, numba = importlib.import_module(f"lib.ops.{kernels}"), importlib.import_module("numba")
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    # Numba's OpenMP layer may share torch's runtime, whose thread count it then sets when it starts.
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return module
