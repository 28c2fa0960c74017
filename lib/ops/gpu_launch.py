"""How the Triton kernels are found, fed and launched."""

import functools
import importlib
import importlib.util
import os
import shutil
from typing import Any

import torch
from torch import Tensor


def launch(kernel: str, out: Tensor, programs: int, *arguments: Any, **constants: Any) -> None:
    """A kernel of `kernels/gpu.py` in so many programs, none at all too, on the device of what it writes."""
    with torch.cuda.device_of(out):
        getattr(_kernels(), kernel)[(programs,)](*arguments, **constants)


@functools.cache
def _kernels() -> Any:
    """Triton is imported on the first call, and not by those who have no GPU."""
    if importlib.util.find_spec("triton") is None:
        raise ModuleNotFoundError("distances on CUDA need Triton, which is not installed: run `pip install triton`")
    kernels = importlib.import_module("lib.ops.kernels.gpu")
    compiled = isinstance(kernels.peaks, kernels.triton.JITFunction)  # and not interpreted
    if compiled and not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise RuntimeError(
            "distances on CUDA need a C compiler for Triton: install gcc or clang, or name another in CC"
        )
    return kernels
