"""Nets on disk: safetensors with the architecture in the header; nothing is unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib.nets.models import ConvLInfDistNetMLP, LInfDistNet, LInfDistNetMLP, Net
from lib.nets.sortnet import SortNet

_CLASSES = {cls.__name__: cls for cls in (LInfDistNet, SortNet, LInfDistNetMLP, ConvLInfDistNetMLP)}


def save(net: Net, path: str | Path) -> None:
    """Write weights, running means and architecture (normalisation included) to one file, atomically.

    Raises ValueError where net is none of this library's nets, or has another normalisation than it was built with;
    TypeError where it is not float32, which `load` gives.
    """
    _check(net)
    path = Path(path)
    header = {"architecture": json.dumps({"class": type(net).__name__, "arguments": net.config})}
    partial = path.with_name(path.name + ".partial")
    try:
        save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, partial, metadata=header)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | Path) -> Net:
    """The net that `save` wrote, on the CPU, in evaluation mode.

    Raises FileNotFoundError where there is no such file; ValueError where it is truncated, not of this library, or
    its tensors do not fit the architecture in its header or are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a saved net, but there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file, got one that does not read: {error}") from error
    architecture = header.get("architecture")
    with torch.device("meta"):  # where a header that asks for too much costs nothing
        _check_tensors(_from_header(architecture, path), tensors, path)
    net = _from_header(architecture, path)
    net.load_state_dict(tensors)
    return net.eval()


def _check(net: Net) -> None:
    if type(net) not in _CLASSES.values():
        raise ValueError(f"net must be one of {', '.join(_CLASSES)}, got {type(net).__name__}")
    for name, tensor in net.state_dict().items():
        if tensor.dtype is not torch.float32:
            raise TypeError(f"net must be float32 to be saved, got {tensor.dtype} in {name}")
    mean, std = net.normalize.mean.flatten().cpu(), net.std
    built = torch.tensor(net.config["mean"], dtype=torch.float32), net.config["std"]
    if not torch.equal(mean, built[0]) or std != built[1]:  # the file holds what it was built with
        raise ValueError(
            f"net must have the mean and std it was built with to be saved, {built[0].tolist()} and {built[1]}, "
            f"got {mean.tolist()} and {std}"
        )


def _from_header(text: str | None, path: Path) -> Net:
    try:
        architecture: dict[str, Any] = json.loads(text or "")
        return _CLASSES[architecture["class"]](**architecture["arguments"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must hold the architecture of one of {', '.join(_CLASSES)} in its header, got {text!r}"
        ) from error


def _check_tensors(net: Net, tensors: dict[str, torch.Tensor], path: Path) -> None:
    wanted, found = ({name: list(t.shape) for name, t in held.items()} for held in (net.state_dict(), tensors))
    if wanted != found:
        name = next(name for name in (wanted | found) if wanted.get(name) != found.get(name))
        raise ValueError(
            f"{path} must hold the tensors of the net in its header, got {name} of shape {found.get(name)}, "
            f"expected {wanted.get(name)}"
        )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path} must hold finite tensors, got a non-finite entry in {name}")
