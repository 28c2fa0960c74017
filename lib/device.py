"""The devices that can be asked for by name, and the one that is meant; torch is imported only where one is needed."""

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[str, ...] = get_args(Device)


def resolve_device(device: str) -> "torch.device":
    """The device of that name, "auto" being CUDA where there is one; ValueError for another, or CUDA that is absent."""
    import torch

    if device not in DEVICES:
        raise ValueError(f"device is {device!r}, expected one of {', '.join(DEVICES)}")
    present = torch.cuda.is_available()
    if device == "cuda" and not present:
        raise ValueError("device is 'cuda', but torch sees no CUDA device here; expected 'cpu' or 'auto'")
    return torch.device("cuda" if present and device != "cpu" else "cpu")
