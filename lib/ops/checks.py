"""What the operations on inputs x [B, I] and weights w [O, I] refuse at the door."""

from torch import Tensor
from torch.autograd import forward_ad


def describe(t: Tensor) -> str:
    """Shape, dtype and device, for a sentence."""
    return f"{list(t.shape)} {t.dtype} on {t.device}"


def check_pair(name: str, x: Tensor, w: Tensor) -> None:
    """Raises ValueError for shapes that do not match or without features, TypeError for kinds that differ."""
    if x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[1] or not x.shape[1]:
        raise ValueError(
            f"{name} [B, I] and w [O, I] must be matrices with the same number of features, at least one, "
            f"got {list(x.shape)} and {list(w.shape)}"
        )
    if not x.dtype.is_floating_point or x.dtype != w.dtype or x.device != w.device:
        raise TypeError(
            f"{name} and w must share one floating dtype and one device, got {describe(x)} and {describe(w)}"
        )


def refuse_tangents(**inputs: Tensor) -> None:
    """Raises NotImplementedError under forward-mode differentiation: torch.library would drop a tangent in silence."""
    for name, value in inputs.items():
        if forward_ad.unpack_dual(value).tangent is not None:
            raise NotImplementedError(
                f"{name} has a tangent of forward-mode differentiation, expected none: distances have gradients alone"
            )
