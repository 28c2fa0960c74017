"""The data sets as published, whole and verified: from torchvision, scikit-learn, or a folder."""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from lib.training import tiny_imagenet

CUT = frozenset({"tiny-imagenet"})  # data sets whose images may be larger than a recipe's, which are cut out of them


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, of a data set or your own: pixels [N, C, H, W], uint8 or floating point; labels [N], integers.

    pixels * scale lies in [0, 1]: a scale of 1/255 is for bytes, 1 for pixels that lie there already.

    Raises:
        TypeError: pixels or labels of another kind.
        ValueError: other shapes, pixels that leave [0, 1], labels below 0.
    """

    pixels: Tensor
    labels: Tensor
    scale: float

    def __post_init__(self) -> None:
        _check_kinds(self.pixels, self.labels, self.scale)
        object.__setattr__(self, "labels", self.labels.to(torch.int64))
        if self.pixels.dim() != 4 or self.labels.shape != self.pixels.shape[:1]:
            raise ValueError(
                f"pixels and labels have shapes {list(self.pixels.shape)} and {list(self.labels.shape)}, "
                "expected [N, C, H, W] and [N]"
            )
        if self.pixels.numel():
            _check_values(self.pixels, self.labels, self.scale)

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """A digest of pixels, labels and scale: whether a run goes on with the images that it began with."""
        digest = hashlib.sha256(str(self.scale).encode())
        for part in (self.pixels, self.labels):
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str) -> "Images":
        """The same images on a device."""
        return Images(self.pixels.to(device), self.labels.to(device), self.scale)

    def subset(self, indices: Tensor) -> "Images":
        """The images at int64 indices [M], in their order."""
        indices = indices.to(self.labels.device)
        return Images(self.pixels[indices], self.labels[indices], self.scale)


def _check_kinds(pixels: Any, labels: Any, scale: Any) -> None:
    for name, value in (("pixels", pixels), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} are of type {type(value).__name__}, expected a Tensor")
    if not (pixels.dtype is torch.uint8 or pixels.is_floating_point()):
        raise TypeError(f"pixels are of {pixels.dtype}, expected torch.uint8 or floating point")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype is torch.bool:
        raise TypeError(f"labels are of {labels.dtype}, expected integers")
    if not (isinstance(scale, Real) and 0 < float(scale) < math.inf):
        raise ValueError(f"scale is {scale!r}, expected a finite number above 0")


def _check_values(pixels: Tensor, labels: Tensor, scale: float) -> None:
    low, high = (float(end.float() * scale) for end in pixels.aminmax())  # as a batch is made of them
    if not 0 <= low <= high <= 1:
        raise ValueError(f"pixels * scale lies between {low:.4g} and {high:.4g}, expected numbers in [0, 1]")
    if (least := int(labels.min())) < 0:
        raise ValueError(f"labels begin at {least}, expected numbers from 0 on")


class DataSplit(NamedTuple):
    """The images to train on and those to evaluate on."""

    train: Images
    test: Images


def read(name: str, root: Path) -> DataSplit:
    """The data set `name` of a recipe from the folder `root`, into which torchvision downloads the files it lacks.

    Raises FileNotFoundError where they are missing and could not be downloaded, ValueError where they are damaged.
    """
    return _READERS[name](root)


def _digits(root: Path) -> DataSplit:
    """Scikit-learn's 1,797 digits, which need no folder: of the digits sorted by class, every fifth is a test image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = _images(bunch.images[:, None], bunch.target, 16)
    by_class = torch.argsort(images.labels, stable=True)
    is_test = torch.zeros(len(images), dtype=torch.bool, device="cpu")
    is_test[by_class[::5]] = True
    split = DataSplit(images.subset((~is_test).nonzero()[:, 0]), images.subset(is_test.nonzero()[:, 0]))
    return _verified("digits", split, "scikit-learn (install it again)")


def _images(pixels: Any, labels: Any, white: int) -> Images:
    """Images from arrays [N, C, H, W] and [N] of any type; `white` is the brightest pixel value."""
    return Images(
        torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.uint8)),
        torch.as_tensor(labels, dtype=torch.int64, device="cpu"),
        1 / white,
    )


def _tiny_imagenet(root: Path) -> DataSplit:
    return DataSplit(*(_images(*part, 255) for part in tiny_imagenet.read(root)))


class _Source(NamedTuple):
    dataset: str  # the class in torchvision.datasets
    files: tuple[str, ...]  # what it reads below its root


def _from_torchvision(name: str, root: Path) -> DataSplit:
    from torchvision import datasets

    dataset = getattr(datasets, _SOURCES[name].dataset)
    origin = f"{root.absolute()} (delete its files there and run again to download them)"
    _download_missing(name, dataset, root)
    try:
        parts = [dataset(root, train=train, download=False) for train in (True, False)]
    except Exception as error:  # torchvision meets damaged files with errors of many types
        cause = str(error) or type(error).__name__  # a bare assertion says nothing
        raise ValueError(f"data set {name!r} in {origin} is damaged: {cause}") from error
    return _verified(
        name, DataSplit(*(_images(_channels_first(part.data), part.targets, 255) for part in parts)), origin
    )


def _channels_first(pixels: Any) -> Any:
    """[N, H, W] or [N, H, W, C] as [N, C, H, W]."""
    pixels = np.asarray(pixels)
    return pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)


def _download_missing(name: str, dataset: Callable[..., Any], root: Path) -> None:
    lock = root / f".{name}.lock"
    if not lock.exists() and not _missing(name, root):
        return
    with _locked(lock):  # another run may be unpacking these files
        missing = _missing(name, root)
        if not missing:
            return
        try:
            dataset(root, train=True, download=True)
        except (RuntimeError, OSError, HTTPException) as error:
            cause = " ".join(str(error).split())
            raise FileNotFoundError(
                f"data set {name!r} was looked for in {root.absolute()}, which lacks {', '.join(missing)}, and "
                f"torchvision could not download it ({cause}): set LINF_DATA or data_root to a folder that holds it, "
                f"or put its files there, or run where torchvision can download"
            ) from error


def _missing(name: str, root: Path) -> list[str]:
    return [file for file in _SOURCES[name].files if not (root / file).is_file()]


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Holds the lock of a data set; a folder that takes none, as where nothing can be written, is read without."""
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(lock))
        yield


def _verified(name: str, split: DataSplit, origin: str) -> DataSplit:
    for images, expected in zip(split, _SHA256[name], strict=True):
        digest = hashlib.sha256(images.pixels.numpy().data)
        digest.update(images.labels.numpy().data)
        if digest.hexdigest() != expected:
            raise ValueError(
                f"data set {name!r} in {origin} is damaged: SHA-256 of pixels and labels is {digest.hexdigest()}, "
                f"expected {expected}"
            )
    return split


_IDX = tuple(
    f"{part}-ubyte" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)

_SOURCES = {
    "mnist": _Source("MNIST", tuple(f"MNIST/raw/{file}" for file in _IDX)),
    "fashion-mnist": _Source("FashionMNIST", tuple(f"FashionMNIST/raw/{file}" for file in _IDX)),
    "cifar10": _Source(
        "CIFAR10",
        tuple(
            f"cifar-10-batches-py/{file}"
            for file in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
        ),
    ),
}

_READERS: dict[str, Callable[[Path], DataSplit]] = {
    "digits": _digits,
    "tiny-imagenet": _tiny_imagenet,
    **{name: partial(_from_torchvision, name) for name in _SOURCES},
}

# of the bytes of pixels, then of labels: train, test
_SHA256 = {
    "digits": (
        "662e33a2e9c99c1f3b8a3a3bc7a2d0d9b6376a062a3fa985f15537de81043692",
        "973417cfcf53301f21b78f9c5a5539e88014944f3fe3051e93e9892e0008999a",
    ),
    "mnist": (
        "d18cfd466eb143ac1097fde604dba9eec4116885869d04cc648b510949f9e88c",
        "a0863a96c44e5666edbb30c4071ee79ca0514c621e6349c5967fc78e7305c891",
    ),
    "fashion-mnist": (
        "1f243a60b4b748a44c48b9a6f6907be2a08bee3e4e226f0e86fbde8e147b745a",
        "9a494dc49efeb996f4076c469b31cd058152067b1594ba6ab85dd739fce3775e",
    ),
    "cifar10": (
        "973ef2abb5897efc795681a4d79a6f5f642fa2bcb1a828f7476017c89db53a57",
        "2c33b053d1cd726af8d86e174a96dd89d7000ba1412add026d68142375b89d51",
    ),
}
