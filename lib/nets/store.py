"""Nets on disk: safetensors with the architecture in the header; nothing is unpickled."""

import json
import math
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lib.files import replacing
from lib.nets.checks import NETS, check_float32, check_parts, kind_of, not_finite
from lib.nets.layers import LInfDist
from lib.nets.models import ConvLInfDistNetMLP, Net, ReLUNet
from lib.nets.normalisation import Normalize
from lib.nets.pruned import PrunedDist, Sealed, ValidPixels

_CLASSES: dict[str, Callable[..., Net]] = {cls.__name__: cls for cls in NETS}
_CONVOLVING = {ConvLInfDistNetMLP.__name__, ReLUNet.__name__}
# what pruning gives a part, and a file does not hold either: the net comes back as it was before
_PRUNING = {"lists", "together"}


def save(net: Net, path: str | Path) -> None:
    """Write weights, running means and architecture (normalisation included) to one file, atomically.

    Raises:
        ValueError: a net that `load` would not give back: hooks, parts, attributes or a normalisation that it was not
            built with, weights that are not finite, or one tensor in two places.
        TypeError: none of this library's nets, other layers, replaced methods, weights that are not float32; what is no
            path, an open file too.
        FileNotFoundError, IsADirectoryError: a path into a folder that is not there, or of one that is.
    """
    path = _path(path)
    _check(net)
    if path.is_dir():
        raise IsADirectoryError(f"path must be that of a file, got the folder {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path must lie in a folder that is there, got {path}")
    header = {"architecture": json.dumps({"class": type(net).__name__, "arguments": net.config})}
    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    with replacing(path) as new:
        # its own save_file would write one that no other user can read
        new.write_bytes(safetensors.torch.save(tensors, metadata=header))


def load(path: str | Path) -> Net:
    """The net that `save` wrote, on the CPU, in evaluation mode; torch's generator stays where it is.

    Raises TypeError for what is no path; FileNotFoundError where there is no such file; ValueError where it is
    truncated, not of this library, or its tensors do not fit the architecture in its header, are not float32 or not
    finite.
    """
    path = _path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a saved net, but there is no file {path}")
    try:
        with torch.device("cpu"), safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file, got one that does not read: {error}") from error
    architecture = header.get("architecture")
    with torch.device("meta"):  # where a header that asks for too much costs nothing
        _check_tensors(_from_header(architecture, tensors, path), tensors, path)
    # the initial draw is thrown away; what is made in inference mode could not be trained
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        net = _from_header(architecture, tensors, path).float()
        net.load_state_dict(tensors)
    return net.eval()


def _path(path: Any) -> Path:
    if not isinstance(path, str | PathLike):
        raise TypeError(f"path must be a path, got {type(path).__name__}")
    return Path(path)


def _check(net: Net) -> None:
    if type(net) not in NETS:
        raise TypeError(f"net must be one of {', '.join(_CLASSES)}, got {kind_of(net)}")
    check_parts(net, "saved")
    for name, module in net.named_modules():
        if module._state_dict_hooks or module._state_dict_pre_hooks:
            raise ValueError(f"net must have no hooks on its state to be saved, got some on {name or 'itself'}")
    state = net.state_dict()
    check_float32(state, "saved")
    _check_places(state)
    mean, std = net.normalize.mean.flatten().cpu(), net.std
    built = torch.tensor(net.config["mean"], dtype=torch.float32, device="cpu"), net.config["std"]
    if not torch.equal(mean, built[0]) or std != built[1]:  # the file holds what it was built with
        raise ValueError(
            f"net must have the mean and std it was built with to be saved, {built[0].tolist()} and {built[1]}, "
            f"got {mean.tolist()} and {std}"
        )
    with torch.device("meta"):
        twin = _CLASSES[type(net).__name__](**net.config)
    _check_twin(net, twin)


def _check_places(state: dict[str, Tensor]) -> None:
    places: dict[int, str] = {}
    for name, tensor in state.items():
        other = places.setdefault(tensor.data_ptr(), name)
        if other != name:
            raise ValueError(
                f"net must have a tensor of its own in every place to be saved, got one in {other}, {name}"
            )


def _check_twin(net: Net, twin: Net) -> None:
    """Refuse a net whose parts are not those of the net that its arguments build."""
    found, wanted = (dict(each.named_modules()) for each in (net, twin))
    for place in wanted | found:
        ours, theirs = _looks(found.get(place)), _looks(wanted.get(place))
        if ours.get("class") == theirs.get("class"):
            _check_attributes(found[place], wanted[place], place or type(net).__name__)
        if ours != theirs:
            trait = next(trait for trait in theirs | ours if ours.get(trait) != theirs.get(trait))
            raise ValueError(
                f"net must be what it was built as to be saved, got {trait} {ours.get(trait)} "
                f"in {place or type(net).__name__}, expected {theirs.get(trait)}"
            )
    if missing := twin.state_dict().keys() - net.state_dict().keys():
        raise ValueError(
            f"net must have all its tensors in its state to be saved, got none of {', '.join(sorted(missing))}"
        )


def _check_attributes(part: nn.Module, built: nn.Module, place: str) -> None:
    """Refuse attributes that a part does not have when it is built, of whatever type."""
    made = _PRUNING if isinstance(part, Sealed) else set()
    held = vars(part).keys() | part._parameters.keys() | part._buffers.keys()
    # an underscore marks what tools leave for themselves: torch.compile does, on the net that it was given
    if own := sorted(name for name in held - made if not name.startswith("_") and not hasattr(built, name)):
        raise ValueError(
            "net must have no attributes of your own to be saved, since a file does not hold them, "
            f"got {own[0]} in {place}"
        )


def _looks(module: nn.Module | None) -> dict[str, Any]:
    """What the arguments of a net decide of a part: its class, its numbers and the shapes of its tensors."""
    if module is None:
        return {}
    whole: dict[type, type] = {PrunedDist: LInfDist, ValidPixels: Normalize}
    kind = whole.get(type(module), type(module)).__name__
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    numbers = {name: value for name, value in own.items() if type(value) in (int, float, tuple)}
    plain = ((name, value) for name, value in own.items() if isinstance(value, Tensor))
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False), *plain)
    return {"class": kind, **numbers, **{name: list(tensor.shape) for name, tensor in tensors}}


def _from_header(text: str | None, tensors: dict[str, Tensor], path: Path) -> Net:
    try:
        architecture: dict[str, Any] = json.loads(text or "")
        _check_sizes(architecture["class"], architecture["arguments"], tensors)
        return _CLASSES[architecture["class"]](**architecture["arguments"])
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:  # the last of sizes beyond 2^63
        raise ValueError(
            f"{path} must hold the architecture of one of {', '.join(_CLASSES)} in its header, got {text!r} ({error})"
        ) from error


def _check_sizes(kind: str, arguments: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuse more layers or units than the file can hold, before their modules are made."""
    entries = sum(tensor.numel() for tensor in tensors.values())
    shape = arguments["input_shape"]
    if [type(side) for side in shape] != [int] * 3:
        raise TypeError(f"input_shape must be three integers, got {shape!r}")
    # the pixels of a net that convolves are not bounded by its weights, and cost nothing
    asked = arguments | {"channels": shape[0], "pixels": 0 if kind in _CONVOLVING else math.prod(shape)}
    limits = dict.fromkeys(("width", "hidden", "num_classes", "channels", "pixels"), entries) | {"depth": len(tensors)}
    for name, most in limits.items():
        if name in asked and asked[name] > most:
            raise ValueError(f"{name} must be at most {most} for these tensors, got {asked[name]}")


def _check_tensors(net: Net, tensors: dict[str, Tensor], path: Path) -> None:
    wanted, found = ({name: list(t.shape) for name, t in held.items()} for held in (net.state_dict(), tensors))
    if wanted != found:
        name = next(name for name in (wanted | found) if wanted.get(name) != found.get(name))
        raise ValueError(
            f"{path} must hold the tensors of the net in its header, got {name} of shape {found.get(name)}, "
            f"expected {wanted.get(name)}"
        )
    for name, tensor in tensors.items():
        if tensor.dtype is not torch.float32:
            raise ValueError(f"{path} must hold float32 tensors, got {tensor.dtype} in {name}")
    if name := not_finite(tensors):
        raise ValueError(f"{path} must hold finite tensors, got a non-finite entry in {name}")
