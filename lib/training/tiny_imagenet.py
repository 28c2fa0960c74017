"""Tiny ImageNet from its standard folder; the JPEGs are decoded once, into one file of bytes beside that folder."""

import hashlib
import os
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lib.files import replacing

FOLDER, CACHE = "tiny-imagenet-200", "tiny-imagenet-200.decoded.npz"
SIDE = 64  # pixels of an image's height and width
COUNTS = (100_000, 10_000)  # training and validation images of the whole data set
ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

_FORMAT = 1  # of the cache


class Part(NamedTuple):
    """Training or validation images: pixels uint8 [N, 3, 64, 64]; labels [N], places of their wnids in sorted order."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def read(root: Path) -> tuple[Part, Part]:
    """The training and the validation images below root/tiny-imagenet-200, as many of them as there are.

    The decoded images are kept in root/tiny-imagenet-200.decoded.npz, and read from there while no image and no label
    has changed since; a cache that is stale or damaged is made again.

    Raises:
        FileNotFoundError: the folder, or a file that it should hold, is missing.
        ValueError: a file is damaged or not what it should be.
    """
    folder = root / FOLDER
    files = _training_files(folder), _validation_files(folder)
    key = _key(folder, files)
    parts = _from_cache(root / CACHE, key)
    if parts is None:
        parts = _decoded(files[0]), _decoded(files[1])
        _keep(root / CACHE, key, parts)
    return parts


def words(root: Path) -> list[str]:
    """The first name of each class in words.txt, in the order of the labels; raises as `read` does."""
    names = dict(line.split("\t", 1) for line in _lines(root / FOLDER, "words.txt") if "\t" in line)
    return [names.get(wnid, wnid).split(",")[0] for wnid in _wnids(root / FOLDER)]


_Files = list[tuple[Path, int]]  # an image and its label


def _training_files(folder: Path) -> _Files:
    files: _Files = []
    for label, wnid in enumerate(_wnids(folder)):
        paths = sorted((folder / "train" / wnid).rglob("*.JPEG"))
        if not paths:
            raise _missing(folder, f"train/{wnid}/images/*.JPEG")
        files += [(path, label) for path in paths]
    return files


def _validation_files(folder: Path) -> _Files:
    places = {wnid: label for label, wnid in enumerate(_wnids(folder))}
    files: _Files = []
    for line in _lines(folder, "val/val_annotations.txt"):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in places:
            raise _damaged(
                folder, f"val/val_annotations.txt gives {name!r} the class {wnid!r}, expected one of wnids.txt"
            )
        files.append((folder / "val" / "images" / name, places[wnid]))
    return files


def _wnids(folder: Path) -> list[str]:
    wnids = sorted(_lines(folder, "wnids.txt"))
    if not all(wnids) or len(set(wnids)) < len(wnids):  # a name that is empty would be the folder of all
        raise _damaged(folder, "wnids.txt has a line that is empty or there twice")
    return wnids


def _lines(folder: Path, name: str) -> list[str]:
    try:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise _missing(folder, name) from error
    except UnicodeDecodeError as error:
        raise _damaged(folder, f"{name} is no text") from error
    if not lines:
        raise _damaged(folder, f"{name} is empty")
    return lines


def _missing(folder: Path, name: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"data set 'tiny-imagenet' was looked for in {folder.absolute()}, which lacks {name}: unpack {ADDRESS} into "
        f"{folder.parent.absolute()}, or set LINF_DATA or data_root to a folder that holds {FOLDER}/"
    )


def _damaged(folder: Path, what: str) -> ValueError:
    return ValueError(f"data set 'tiny-imagenet' in {folder.absolute()} is damaged: {what}; unpack {ADDRESS} again")


def _key(folder: Path, files: tuple[_Files, _Files]) -> str:
    """A digest of every image's name, label, size and time of change."""
    digest = hashlib.sha256(f"{_FORMAT}".encode())
    for path, label in (*files[0], *files[1]):
        name = path.relative_to(folder).as_posix()
        try:
            status = path.stat()
        except FileNotFoundError as error:
            raise _missing(folder, name) from error
        digest.update(f"{name} {label} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _decoded(files: _Files) -> Part:
    pixels = np.empty((len(files), 3, SIDE, SIDE), np.uint8)

    def decode(place: int) -> None:
        pixels[place] = _image(files[place][0])

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(len(files))):
            pass
    return Part(pixels, np.array([label for _, label in files], np.int64))


def _image(path: Path) -> npt.NDArray[np.uint8]:
    """The pixels [3, 64, 64] of a JPEG; grey ones become three equal channels."""
    from PIL import Image

    folder = next(parent for parent in path.parents if parent.name == FOLDER)
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(folder, f"{path.relative_to(folder)} cannot be decoded ({error})") from error
    if pixels.shape != (SIDE, SIDE, 3):
        size = f"{pixels.shape[0]} x {pixels.shape[1]}"
        raise _damaged(folder, f"{path.relative_to(folder)} has {size} pixels, expected {SIDE} x {SIDE}")
    return pixels.transpose(2, 0, 1)


def _from_cache(path: Path, key: str) -> tuple[Part, Part] | None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["key"]) != key:
                return None
            # zip checks the sum of every member that is read
            arrays = [archive[name] for name in _MEMBERS]
    # a runtime error for a method of compression, or of encryption, that a damaged byte asks for
    except (OSError, KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile):
        return None
    return Part(*arrays[:2]), Part(*arrays[2:])


def _keep(path: Path, key: str, parts: tuple[Part, Part]) -> None:
    arrays: dict[str, Any] = dict(zip(_MEMBERS, (*parts[0], *parts[1]), strict=True))
    try:
        with replacing(path) as new, new.open("wb") as stream:
            np.savez(stream, key=np.array(key), **arrays)
    except OSError as error:
        warnings.warn(
            f"the decoded images could not be kept in {path}, the next run decodes again: {error}", stacklevel=2
        )


_MEMBERS = ("train_pixels", "train_labels", "val_pixels", "val_labels")
