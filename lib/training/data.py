"""The data sets, held whole in memory on the device, and what is drawn from them: order, crops, flips.

Every draw is a function of (seed, epoch, step), made on the CPU: the same on every device, and nothing to restore
after an interruption.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.nn import functional as F

from lib.recipes import Recipe
from lib.training import tiny_imagenet


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images: pixels uint8 [N, C, H, W], labels int64 [N]; pixels * scale lies in [0, 1]."""

    pixels: Tensor
    labels: Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Images":
        """The same images on a device."""
        return Images(self.pixels.to(device), self.labels.to(device), self.scale)

    def subset(self, indices: Tensor) -> "Images":
        """The images at int64 indices [M], in their order."""
        indices = indices.to(self.labels.device)
        return Images(self.pixels[indices], self.labels[indices], self.scale)


class DataSplit(NamedTuple):
    """The images to train on and those to evaluate on."""

    train: Images
    test: Images


def load_data(recipe: Recipe, data_root: str | Path | None = None) -> DataSplit:
    """The recipe's data set from folder `data_root`, else LINF_DATA, else data/; torchvision downloads missing files,
    except for Tiny ImageNet, which it does not know.

    `validation` replaces the test images by the last 5,000 (digits: 287) of a fixed permutation of the training images
    and trains on the others. A limit of n keeps the first n of a fixed permutation of what is then left. Where images
    are larger than the recipe's, those to evaluate on are cut to their centres; see `augment` for those to train on.

    Raises:
        FileNotFoundError: the files are missing and could not be downloaded.
        ValueError: files that are damaged, images that do not fit the recipe, a limit above the number of images.
    """
    split = _LOADERS[recipe.dataset](_root(data_root))
    _check_fit(recipe, split.train)
    if recipe.validation:
        split = _hold_out(split.train, _HELD_OUT.get(recipe.dataset, 5000))
    return DataSplit(
        _limited(split.train, "train_limit", recipe.train_limit),
        _centred(_limited(split.test, "test_limit", recipe.test_limit), recipe.input_shape),
    )


def as_found(recipe: Recipe, data: DataSplit) -> Recipe:
    """The recipe, its limits saying how many images `load_data` found where that is less than the whole data set."""
    if recipe.dataset not in _COUNTS:
        return recipe  # verified by digest: whole
    train, test = _COUNTS[recipe.dataset]
    if recipe.validation:
        train, test = train - _HELD_OUT.get(recipe.dataset, 5000), 0
    return recipe.replace(
        train_limit=recipe.train_limit or (len(data.train) if len(data.train) < train else 0),
        test_limit=recipe.test_limit or (len(data.test) if len(data.test) < test else 0),
    )


def class_names(dataset: str, data_root: str | Path | None = None) -> list[str]:
    """What the labels of a data set mean, label 0 first; Tiny ImageNet's are read from its folder, see `load_data`."""
    if dataset == "tiny-imagenet":
        return tiny_imagenet.words(_root(data_root))
    return list(_NAMES.get(dataset, map(str, range(10))))


def batch(images: Images, indices: Tensor) -> Tensor:
    """The images at int64 indices [B] as float32 [B, C, H, W] in [0, 1], on the device of the images."""
    return images.pixels[indices.to(images.pixels.device)].to(torch.float32) * images.scale


def centre(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle [B, C, height, width] of images at least as large, of `size` = (height, width): how a net sees them
    outside training."""
    top, left = ((whole - part) // 2 for whole, part in zip(x.shape[2:], size, strict=True))
    return x[:, :, top : top + size[0], left : left + size[1]]


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The permutation [n] in which epoch `epoch` goes through n images."""
    return torch.randperm(n, generator=_generator(seed, epoch))


def step_generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """The CPU generator of all draws of one training step; `step` counts from 0 in its epoch."""
    return _generator(seed, epoch, step)


def training_batch(images: Images, recipe: Recipe, indices: Tensor, generator: torch.Generator) -> Tensor:
    """The images at int64 indices [B], cut and mirrored as the recipe says: float32 [B, C, H, W] in [0, 1]."""
    return augment(
        batch(images, indices),
        crop_padding=recipe.crop_padding,
        crop_edge=recipe.crop_edge,
        flip=recipe.flip,
        size=recipe.input_shape[1:],
        generator=generator,
    )


def augment(
    x: Tensor,
    *,
    crop_padding: int,
    crop_edge: bool = False,
    flip: bool,
    generator: torch.Generator,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Random crops after padding by `crop_padding` pixels and random horizontal flips, one draw per image.

    Args:
        x: [B, C, H, W] on any device.
        crop_padding: pixels added on each side, at least 0.
        crop_edge: whether the added pixels repeat those of the border; else they are black.
        size: height and width of the crop, both smaller than those of x by the same number; default those of x.
        flip: whether to mirror each image with probability 1/2.
        generator: on the CPU, see `step_generator`; under DDP augment the whole batch before splitting it.
    """
    # non_blocking: the copy is queued while a GPU may still be in the step before
    height, width = size or x.shape[2:]
    slack = 2 * crop_padding + x.shape[2] - height
    if slack:
        offsets = torch.randint(slack + 1, (2, len(x)), generator=generator).to(x.device, non_blocking=True)
        x = _crop(_pad(x, crop_padding, crop_edge), offsets, height, width)
    if flip:
        mirrored = torch.randint(2, (len(x), 1, 1, 1), generator=generator).bool().to(x.device, non_blocking=True)
        x = torch.where(mirrored, x.flip(3), x)
    return x


def _pad(x: Tensor, width: int, edge: bool) -> Tensor:
    return F.pad(x, [width] * 4, mode="replicate" if edge else "constant")


def _crop(padded: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(padded), device=padded.device), :, offsets[0], offsets[1]]


def _generator(seed: int, *place: int) -> torch.Generator:
    state = np.random.SeedSequence(seed, spawn_key=place).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _root(data_root: str | Path | None) -> Path:
    return Path(data_root or os.environ.get("LINF_DATA") or "data")


def _fixed_permutation(n: int) -> Tensor:
    # the legacy stream, because NumPy promises never to change it
    return torch.from_numpy(np.random.RandomState(0).permutation(n))


def _hold_out(images: Images, count: int) -> DataSplit:
    order = _fixed_permutation(len(images))
    return DataSplit(images.subset(order[:-count]), images.subset(order[-count:]))


def _limited(images: Images, name: str, limit: int) -> Images:
    if limit > len(images):
        raise ValueError(f"{name} is {limit}, expected at most the {len(images)} images there are")
    # a limit that leaves nothing out leaves the order alone, too: see `as_found`
    return images.subset(_fixed_permutation(len(images))[:limit]) if 0 < limit < len(images) else images


def _centred(images: Images, shape: tuple[int, int, int]) -> Images:
    return Images(centre(images.pixels, shape[1:]).contiguous(), images.labels, images.scale)


def _check_fit(recipe: Recipe, images: Images) -> None:
    shape, classes = tuple(images.pixels.shape[1:]), int(images.labels.max()) + 1
    beyond = [whole - part for whole, part in zip(shape, recipe.input_shape, strict=True)]
    if beyond[0] or beyond[1] != beyond[2] or beyond[1] < 0:
        raise ValueError(
            f"input_shape is {recipe.input_shape}, expected {shape} for data set {recipe.dataset!r}, or a crop with "
            f"as many pixels less in height as in width"
        )
    if classes != recipe.classes:
        raise ValueError(f"classes is {recipe.classes}, expected {classes} for data set {recipe.dataset!r}")


def _digits(root: Path) -> DataSplit:
    """Scikit-learn's 1,797 digits, which need no folder: of the digits sorted by class, every fifth is a test image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = _images(bunch.images[:, None], bunch.target, 16)
    by_class = torch.argsort(images.labels, stable=True)
    is_test = torch.zeros(len(images), dtype=torch.bool)
    is_test[by_class[::5]] = True
    split = DataSplit(images.subset((~is_test).nonzero()[:, 0]), images.subset(is_test.nonzero()[:, 0]))
    return _verified("digits", split, "scikit-learn (install it again)")


def _images(pixels: Any, labels: Any, white: int) -> Images:
    """Images from arrays [N, C, H, W] and [N] of any type; `white` is the brightest pixel value."""
    return Images(
        torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.uint8)),
        torch.as_tensor(labels, dtype=torch.int64),
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
        raise ValueError(f"data set {name!r} in {origin} is damaged: {error}") from error
    return _verified(
        name, DataSplit(*(_images(_channels_first(part.data), part.targets, 255) for part in parts)), origin
    )


def _channels_first(pixels: Any) -> Any:
    """[N, H, W] or [N, H, W, C] as [N, C, H, W]."""
    pixels = np.asarray(pixels)
    return pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)


def _download_missing(name: str, dataset: Callable[..., Any], root: Path) -> None:
    missing = [file for file in _SOURCES[name].files if not (root / file).is_file()]
    if not missing:
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):  # another run may be downloading the same files
            dataset(root, train=True, download=True)
    except (RuntimeError, OSError, HTTPException) as error:
        cause = " ".join(str(error).split())
        raise FileNotFoundError(
            f"data set {name!r} was looked for in {root.absolute()}, which lacks {', '.join(missing)}, and torchvision "
            f"could not download it ({cause}): set LINF_DATA or data_root to a folder that holds it, or put its files "
            f"there, or run where torchvision can download"
        ) from error


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


_NAMES = {
    "fashion-mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}

_HELD_OUT = {"digits": 287}

# training and test images of a data set of which a folder may hold a part
_COUNTS = {"tiny-imagenet": tiny_imagenet.COUNTS}

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

_LOADERS: dict[str, Callable[[Path], DataSplit]] = {
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
