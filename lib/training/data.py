"""The images of a recipe, held whole in memory: those to train on and those to evaluate on."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.files import data_folder
from lib.recipes import Recipe
from lib.recipes.values import refuse_unknown
from lib.training import datasets, tiny_imagenet
from lib.training.datasets import CUT, DataSplit, Images


def load_data(recipe: Recipe, data_root: str | Path | None = None) -> DataSplit:
    """The recipe's data set from folder `data_root`, else LINF_DATA, else data/; torchvision downloads missing files,
    except for Tiny ImageNet, which it does not know.

    `validation` replaces the test images by the last 5,000 (digits: 287) of a fixed permutation of the training images
    and trains on the others. A limit of n keeps the first n of a fixed permutation of what is then left. Of Tiny
    ImageNet, whose images may be larger than the recipe's, those to evaluate on are cut to their centres; for those to
    train on see `augment` in `draws.py`.

    Raises:
        FileNotFoundError: the files are missing and could not be downloaded.
        ValueError: files that are damaged, images that do not fit the recipe, a limit above the number of images.
    """
    split = datasets.read(recipe.dataset, data_folder(data_root))
    _check_fit(recipe, split.train)
    if recipe.validation:
        split = _hold_out(split.train, _held_out(recipe))
    return DataSplit(
        _limited(split.train, "train_limit", recipe.train_limit),
        _centred(_limited(split.test, "test_limit", recipe.test_limit), recipe.input_shape),
    )


def as_found(recipe: Recipe, data: DataSplit) -> Recipe:
    """The recipe, its limits saying how many images `load_data` found where that is less than the whole data set."""
    if is_verified(recipe.dataset):
        return recipe  # whole
    train, test = _COUNTS[recipe.dataset]
    if recipe.validation:
        train, test = train - _held_out(recipe), 0
    return recipe.replace(
        train_limit=recipe.train_limit or (len(data.train) if len(data.train) < train else 0),
        test_limit=recipe.test_limit or (len(data.test) if len(data.test) < test else 0),
    )


def is_verified(dataset: str) -> bool:
    """Whether the images of a data set are the same wherever it is read: digests tell."""
    return dataset not in _COUNTS


def class_names(dataset: str, data_root: str | Path | None = None) -> list[str]:
    """What the labels of a data set mean, label 0 first; Tiny ImageNet's are read from its folder, see `load_data`.

    Raises ValueError for a data set that no recipe can name.
    """
    refuse_unknown([dataset], [*_NAMES, "tiny-imagenet"], "data set")
    if dataset == "tiny-imagenet":
        return tiny_imagenet.words(data_folder(data_root))
    return list(_NAMES[dataset])


def batch(images: Images, indices: Tensor) -> Tensor:
    """The images at int64 indices [B] as float32 [B, C, H, W] in [0, 1], on the device of the images."""
    return images.pixels[indices.to(images.pixels.device)].to(torch.float32) * images.scale


def centre(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle [B, C, height, width] of images at least as large, of `size` = (height, width): how a net sees them
    outside training."""
    top, left = ((whole - part) // 2 for whole, part in zip(x.shape[2:], size, strict=True))
    return x[:, :, top : top + size[0], left : left + size[1]]


def _fixed_permutation(n: int) -> Tensor:
    # the legacy stream, because NumPy promises never to change it
    return torch.from_numpy(np.random.RandomState(0).permutation(n))


def _held_out(recipe: Recipe) -> int:
    return 287 if recipe.dataset == "digits" else 5000


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


def check_images(recipe: Recipe, images: Images) -> None:
    """Raises ValueError unless images, such as those of one's own, can be trained on by a recipe.

    They may be larger than its input_shape only where those of its data set are cut.
    """
    if not len(images):
        raise ValueError("train has 0 images, expected at least one")
    shape, last = tuple(images.pixels.shape[1:]), int(images.labels.max())
    if not _fits(shape, recipe):
        larger = ", or as many pixels more in height as in width" if recipe.dataset in CUT else ""
        raise ValueError(f"train has images of shape {shape}, expected input_shape = {recipe.input_shape}{larger}")
    if last >= recipe.classes:
        raise ValueError(f"train has labels up to {last}, expected less than classes = {recipe.classes}")


def _fits(shape: tuple[int, ...], recipe: Recipe) -> bool:
    beyond = [whole - part for whole, part in zip(shape, recipe.input_shape, strict=True)]
    return not any(beyond) or (recipe.dataset in CUT and beyond[0] == 0 and beyond[1] == beyond[2] > 0)


def _check_fit(recipe: Recipe, images: Images) -> None:
    shape, classes = tuple(images.pixels.shape[1:]), int(images.labels.max()) + 1
    if not _fits(shape, recipe):
        crop = ", or a crop with as many pixels less in height as in width" if recipe.dataset in CUT else ""
        raise ValueError(f"input_shape is {recipe.input_shape}, expected {shape} for data set {recipe.dataset!r}{crop}")
    if classes != recipe.classes:
        raise ValueError(f"classes is {recipe.classes}, expected {classes} for data set {recipe.dataset!r}")


_NAMES = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}

# training and test images of a data set of which a folder may hold a part
_COUNTS = {"tiny-imagenet": tiny_imagenet.COUNTS}
