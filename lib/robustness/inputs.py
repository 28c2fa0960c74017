"""What every evaluation asks of its inputs, how it runs a net, and the pixel box of a radius, in raw pixels."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lib.nets.base import DistanceNet
from lib.nets.box import Box
from lib.nets.checks import NETS, is_plain, kind_of, not_finite
from lib.ops.checks import check_tensors

CHUNK = 1000  # images at a time: bounds memory (near 200 MB in a bound pass at width 5120), not results

_FULL = ("highest", "ieee", "none")  # how torch calls float32 products in float32; "none": nothing was set
_DENORMAL = 2.0**-140

_EVALUATING = threading.RLock()


def check_batch(net: DistanceNet, x: Tensor, y: Tensor) -> None:
    """Refuse what cannot be evaluated.

    Raises:
        ValueError: images that are not [B, C, H, W] of the net's shape, not finite or outside [0, 1]; labels that are
            not [B] or outside 0..K-1; weights or a mean that are not finite, a std that is not between 2^-100 and
            2^100; tensors on another device than the net.
        TypeError: a net that is none of this library, images that are not dense or not of the net's dtype, labels that
            are no integers, tensors of a subclass, which may compute otherwise.
    """
    if not isinstance(net, DistanceNet):
        raise TypeError(f"net must be one of {', '.join(each.__name__ for each in NETS)}, got {kind_of(net)}")
    check_tensors(x=x, y=y)
    for name, value in (("x", x), ("y", y)):
        if not is_plain(value):
            kind = type(value).__name__
            raise TypeError(f"{name} must be a plain tensor, got a {kind}: pass {name}.as_subclass(torch.Tensor)")
    net.check_images("x", x)
    if y.dtype.is_floating_point or y.dtype is torch.bool or y.dtype.is_complex:
        raise TypeError(f"y must be integer labels, got {y.dtype}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y must be {x.shape[0]} labels (one per image), got {list(y.shape)}")
    weight = next(net.parameters())
    if x.dtype is not weight.dtype:
        raise TypeError(f"x must have the dtype of the net, {weight.dtype}, got {x.dtype}")
    device = weight.device
    if {x.device, y.device} != {device}:
        raise ValueError(f"x and y must be where net is, on {device}, got {x.device} and {y.device}")
    _check_values(net, x, y)


def check_arithmetic(device: str) -> None:
    """Refuse settings under which torch executes another net than the one that is spoken of.

    Args:
        device: where it is executed, "cpu" or "cuda".

    Raises:
        ValueError: float32 products of reduced precision (TF32, autocast), a thread that flushes denormals to zero.
    """
    autocast, products = torch.is_autocast_enabled(device), _product_precision(device)
    if autocast or products not in _FULL:
        raise ValueError(
            f"evaluation needs float32 products of full precision, got {products!r} and autocast={autocast} on {device}"
        )
    if not torch.tensor(_DENORMAL, dtype=torch.float32, device="cpu").mul(1.0).item():
        raise ValueError("evaluation needs denormal numbers, got a thread that flushes them (set_flush_denormal)")


def _product_precision(device: str) -> str:
    """The setting of the backend of a device; torch's older, common one cannot be read once two backends differ."""
    backend = {"cpu": torch.backends.mkldnn, "cuda": torch.backends.cuda}.get(device)
    setting: str | None = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    return torch.get_float32_matmul_precision() if setting is None else setting


def _check_values(net: DistanceNet, x: Tensor, y: Tensor) -> None:
    if name := not_finite(net.state_dict()):
        raise ValueError(f"net must have finite weights, got a non-finite entry in {name}")
    net.normalize.check()
    if not x.numel():
        return
    low, high = _ends(x)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("x must be finite, got NaN or infinity")
    if low < 0 or high > 1:
        raise ValueError(f"x must lie in [0, 1], got values from {low} to {high}")
    first, last = (int(end) for end in y.long().aminmax())  # of unsigned integers torch knows no minimum
    if first < 0 or last >= net.num_classes:
        raise ValueError(f"y must lie in 0..{net.num_classes - 1}, got labels from {first} to {last}")


def _ends(values: Tensor) -> tuple[float, float]:
    """The least and the largest entry; both are NaN where one is."""
    low, high = values.aminmax()
    return low.item(), high.item()


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """The net in evaluation mode, without parameter gradients; both restored per module and parameter at the end.

    One thread at a time: modes belong to a net and not to a thread, and the first to restore them would take them from
    the others.
    """
    with _EVALUATING, _modes_restored(net):
        yield


@contextmanager
def _modes_restored(net: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in net.modules()}
    # one that was made in inference mode has no gradients, and its flag could not be set back
    trainable = [each for each in net.parameters() if each.requires_grad and not each.is_inference()]
    try:
        net.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter in trainable:
            parameter.requires_grad_(True)


def executed_logits(net: DistanceNet, x: Tensor) -> Tensor:
    """Logits [B, K] at p = inf in evaluation mode, without gradients: what a prediction is read from."""
    with torch.no_grad(), evaluation_mode(net):
        return torch.cat([net(part) for part in x.split(CHUNK)])


def pixel_box(x: Tensor, eps: float | Tensor, *, clip: bool = True) -> Box:
    """The box of all images within eps of x, rounded outward so that no float image within eps is left out.

    Args:
        x: images [B, C, H, W].
        eps: one radius, or one per image [B].
        clip: cut to valid pixels, [0, 1].
    """
    infinity = x.new_tensor(math.inf)
    each = eps.double() if isinstance(eps, Tensor) else torch.tensor(eps, dtype=torch.float64, device="cpu")
    radius = each.to(x).nextafter(infinity).view(-1, 1, 1, 1)  # at least eps
    lower, upper = (x - radius).nextafter_(-infinity), (x + radius).nextafter_(infinity)
    return Box(lower.clamp_(min=0), upper.clamp_(max=1)) if clip else Box(lower, upper)
