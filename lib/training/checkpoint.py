"""What a checkpoint says of its run, and of all that trained it; it is read without Lightning."""

from pathlib import Path
from typing import Any, NamedTuple

import torch


class Origin(NamedTuple):
    """What takes a step: code, the versions that it stands on, and a device."""

    commit: str
    dirty: bool | None  # whether the code differed from it; None: no git to ask
    versions: dict[str, str]
    device: str  # in words


UNKNOWN = Origin("unknown", None, {}, "")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint of a run, its tensors still on disk. Raises ValueError for any other file."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged pickle raises whatever it comes to
        raise ValueError(f"{path} is damaged or no checkpoint, expected one written by fit") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("run"), dict):
        raise ValueError(f"{path} is a checkpoint of something else, expected one written by fit")
    return checkpoint


def origins_of(checkpoint: dict[str, Any]) -> list[Origin]:
    """What took the steps up to a checkpoint, first to last."""
    return [Origin(**origin) for origin in checkpoint.get("origins", [UNKNOWN._asdict()])]


def check_same_run(path: Path, run: dict[str, Any]) -> None:
    """Raises ValueError unless the checkpoint is one of the run described by `run`, naming what differs first."""
    found = read_checkpoint(path)["run"]
    for name in {**found, **run}:
        if found.get(name) != run.get(name):
            raise ValueError(
                f"{path} belongs to another run: {name} is {found.get(name)!r} there, expected {run.get(name)!r}; "
                "remove its folder to begin anew"
            )
