"""Fixtures shared by all tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# Here, since Triton reads it once, when first imported: without a GPU its kernels are interpreted on the CPU.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

_ROOT = Path(__file__).resolve().parents[1]

_FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "tiny-imagenet": "tiny-imagenet-200",
}


@pytest.fixture
def linf_data() -> Callable[[str], Path]:
    """A function from the name of a data set to the folder that holds it: LINF_DATA, else data/, as for the library.

    Without it the test is skipped by the name of the data set; where LINF_REQUIRE_DATA=1 it fails instead.
    """

    def root_of(name: str) -> Path:
        root = Path(os.environ.get("LINF_DATA") or _ROOT / "data")
        if (root / _FOLDERS[name]).is_dir():
            return root
        reason = f"needs the data set {name}, which is not in {root}"
        if os.environ.get("LINF_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    return root_of
