"""Numba kernels on demand: imported on the first call, with at most the threads of torch, for one caller at a time."""

import functools
import importlib
import threading
from collections.abc import Callable
from types import ModuleType
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_TURN = threading.RLock()


def ready(kernels: str, most: int) -> ModuleType:
    """The module of that name in lib.ops.kernels, whose next call runs with torch.get_num_threads(), the one knob.

    At most so many: on a busy machine a thread with little to do is waited for far longer than it works. Fewer, too,
    where Numba was started with fewer. Results do not depend on it.
    """
    module, numba = importlib.import_module(f"lib.ops.kernels.{kernels}"), importlib.import_module("numba")
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, most, numba.config.NUMBA_NUM_THREADS))
    # Numba's OpenMP layer may share torch's runtime, whose thread count it then sets when it starts.
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return module


def one_at_a_time(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """The function behind one lock, for all that runs kernels: one Python thread at a time.

    Kernels use all cores anyhow, and Numba without OpenMP aborts a process that enters them twice at once.
    """

    @functools.wraps(function)
    def alone(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        with _TURN:
            return function(*arguments, **named)

    return alone
