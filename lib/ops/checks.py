"""What the operations on inputs x [B, I] and weights w [O, I] refuse at the door."""

from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_HALVES = {torch.float16, torch.bfloat16}
_DTYPES = {*_HALVES, torch.float32, torch.float64}


def describe(t: Tensor) -> str:
    """Shape, dtype and device, for a sentence."""
    return f"{list(t.shape)} {t.dtype} on {t.device}"


def check_tensors(**values: Any) -> None:
    """Raises TypeError for what is no tensor."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def check_pair(name: str, x: Tensor, w: Tensor) -> None:
    """Raises ValueError for shapes that do not match or without features, TypeError for other kinds."""
    check_tensors(**{name: x, "w": w})
    if x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[1] or not x.shape[1]:
        raise ValueError(
            f"{name} [B, I] and w [O, I] must be matrices with the same number of features, at least one, "
            f"got {list(x.shape)} and {list(w.shape)}"
        )
    if x.dtype not in _DTYPES or x.dtype != w.dtype or x.device != w.device:
        raise TypeError(
            f"{name} and w must share one floating dtype of 16 to 64 bits and one device, "
            f"got {describe(x)} and {describe(w)}"
        )
    if x.layout is not torch.strided or w.layout is not torch.strided:
        raise TypeError(f"{name} and w must be dense, got {x.layout} and {w.layout}")


def autocast(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Both, half precision as float32 where torch.autocast is on: as torch does for its own distances.

    Raises TypeError for what is no tensor.
    """
    check_tensors(x=x, w=w)
    device = x.device.type
    # meta tensors alone know no autocast; torch.amp.is_autocast_available, which says so, torch 2.11 cannot compile
    if device == "meta" or not torch.is_autocast_enabled(device):
        return x, w
    return x.float() if x.dtype in _HALVES else x, w.float() if w.dtype in _HALVES else w


def refuse_second_derivatives(*_: Any) -> None:
    """The gradient of a gradient: raises NotImplementedError."""
    raise NotImplementedError("distances have first derivatives alone, got a gradient of their gradient")


def check_box(lower: Tensor, upper: Tensor, w: Tensor) -> None:
    """As `check_pair` for both ends of a box [B, I], which must agree."""
    check_pair("lower", lower, w)
    check_pair("upper", upper, w)
    if lower.shape != upper.shape:
        raise ValueError(f"lower and upper must agree in shape, got {list(lower.shape)} and {list(upper.shape)}")


def check_exponent(p: Any) -> None:
    """Raises TypeError for a p that is no number, ValueError for one outside [1, inf]."""
    if isinstance(p, bool) or not isinstance(p, Real):
        raise TypeError(f"p must be a number, got {p!r}")
    try:
        exponent = float(p)
    except OverflowError as error:
        raise ValueError("p must be math.inf or a number that a float holds, got a larger one") from error
    if not exponent >= 1:
        raise ValueError(f"p must be at least 1 (math.inf included), got {p}")


def has_tangent(value: Tensor) -> bool:
    """Whether a tensor is differentiated in forward mode."""
    return forward_ad.unpack_dual(value).tangent is not None


def refuse_tangents(**inputs: Tensor) -> None:
    """Raises NotImplementedError under forward-mode differentiation: torch.library would drop a tangent in silence."""
    for name, value in inputs.items():
        if has_tangent(value):
            raise NotImplementedError(
                f"{name} has a tangent of forward-mode differentiation, expected none: distances have gradients alone"
            )
