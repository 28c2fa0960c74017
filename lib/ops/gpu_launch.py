"""How the Triton kernels are found, fed and launched."""

import functools
import importlib
import importlib.util
import os
import shutil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def launch(kernel: str, out: Tensor, programs: int, *arguments: Any, **constants: Any) -> None:
    """A kernel of `gpu_kernels.py` in so many programs, none at all too, on the device of what it writes."""
    with torch.cuda.device_of(out):
        getattr(_kernels(), kernel)[(programs,)](*arguments, **constants)


def padded(a: Tensor, rows: int, cols: int) -> Tensor:
    """Zeros added up to multiples of so many rows and columns; contiguous, a itself where nothing is missing."""
    rows, cols = -a.shape[0] % rows, -a.shape[1] % cols
    return F.pad(a, (0, cols, 0, rows)) if rows or cols else a.contiguous()


@functools.cache
def _kernels() -> Any:
    """Triton is imported on the first call, and not by those who have no GPU."""
    if importlib.util.find_spec("triton") is None:
        raise ModuleNotFoundError("distances on CUDA need Triton, which is not installed: run `pip install triton`")
    kernels = importlib.import_module("lib.ops.gpu_kernels")
    compiled = isinstance(kernels.peaks, kernels.triton.JITFunction)  # and not interpreted
    if compiled and not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise RuntimeError(
            "distances on CUDA need a C compiler for Triton: install gcc or clang, or name another in CC"
        )
    return kernels
