"""What a net may be made of where something is proved of it, or where it is written down: this library's parts."""

from collections.abc import Iterable
from typing import get_args

from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules

from lib.nets.base import DistanceNet
from lib.nets.head import Linear, MLPHead, Tanh
from lib.nets.layers import LInfDist, LInfDistConv2d, MeanShift, Normalize
from lib.nets.models import Net
from lib.nets.sealed import PrunedDist, Sealed, ValidPixels, check_together
from lib.nets.sortnet import SortLinear

NETS: tuple[type[Net], ...] = get_args(Net)
# the bounds of each are proved
_PROVED: set[type[nn.Module]] = {*NETS, MLPHead, Linear, Tanh, nn.ModuleList}
_PROVED |= {LInfDist, LInfDistConv2d, SortLinear, PrunedDist, MeanShift, Normalize, ValidPixels}


def check_parts(net: DistanceNet, purpose: str) -> None:
    """Refuse a net whose values, as executed, are not those that the proofs speak of.

    Args:
        net: any distance net.
        purpose: what is to be done with it, "certified", "pruned" or "saved".

    Raises:
        TypeError: a module that is not one of this library's, subclasses included, or with a replaced method; a part
            that is no module of the net, as in a plain list.
        ValueError: a forward hook, on a module or on all; coefficients of a SortNet layer that are negative or of a sum
            above 1; a part of a pruned net that was changed, or is among others than it was pruned with.
    """
    if of_all_modules._global_forward_hooks or of_all_modules._global_forward_pre_hooks:
        raise ValueError(f"torch must have no global forward hooks where a net is to be {purpose}, got some")
    for name, module in net.named_modules():
        place = f"{type(module).__name__} {name}".strip()
        if type(module) not in _PROVED:
            raise TypeError(f"net must be made of this library's layers alone to be {purpose}, got {place}")
        replaced = next((attribute for attribute in vars(module) if hasattr(type(module), attribute)), None)
        if replaced:
            raise TypeError(
                f"net must have the methods of its classes to be {purpose}, got another {replaced} on {place}"
            )
        if module._forward_hooks or module._forward_pre_hooks:
            raise ValueError(f"net must have no forward hooks to be {purpose}, got some on {place}")
        if isinstance(module, SortLinear):
            _check_coefficients(module.coefficients, place, purpose)
        if isinstance(module, Sealed):
            module.check_constants()
    held = set(net.modules())
    missing = next((part for part in net.parts() if part not in held), None)
    if missing is not None:
        raise TypeError(
            f"net must hold its parts as modules to be {purpose}, got a {type(missing).__name__} that is none of them"
        )
    check_together(net.parts())


def check_neurons(layers: Iterable[nn.Module]) -> None:
    """Raises TypeError for a layer that is no plain one of l_inf-dist neurons, with mean shift or without."""
    for layer in layers:
        for part in (layer, *layer.children()):
            if type(part) not in (LInfDist, PrunedDist, MeanShift):
                raise TypeError(f"layers must be l_inf-dist neurons and mean shifts alone, got a {type(part).__name__}")


def _check_coefficients(c: Tensor, place: str, purpose: str) -> None:
    # a trip through half precision rounds them, and what sums to more than 1 is not 1-Lipschitz
    total = c.double().sum().item()
    if not ((c >= 0).all() and total <= 1 + 2.0**-50):
        raise ValueError(
            f"net must have coefficients of at least 0 and a sum of at most 1 to be {purpose}, got {total} on {place}"
        )
