"""What a net may be made of where something is proved of it, or where it is pruned or saved: this library's parts."""

from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules

from lib.nets.base import CompositeNet, DistanceNet
from lib.nets.head import Affine, Head, Linear, MLPHead, Tanh
from lib.nets.layers import LInfDist, LInfDistConv2d
from lib.nets.models import Net, ReLUNet
from lib.nets.normalisation import MeanShift, Normalize
from lib.nets.pruned import PrunedDist, Sealed, ValidPixels, check_together
from lib.nets.relunet import Conv2d, ReLU, ReLUHead
from lib.nets.sortnet import SortLinear, coefficients

NETS: tuple[type[Net], ...] = get_args(Net)
# the bounds of each are proved
_LAYERS = (LInfDist, LInfDistConv2d, SortLinear, PrunedDist)
_PROVED: set[type[nn.Module]] = {*NETS, *_LAYERS, MeanShift, Normalize, ValidPixels}
_PROVED |= {MLPHead, Linear, Tanh, ReLUHead, Conv2d, ReLU, nn.ModuleList}

_WAY_OUT = "pass the net as it was before, or its copy.deepcopy, which is not compiled"


def check_parts(net: DistanceNet, purpose: str) -> None:
    """Refuse a net whose values, as executed, are not those that the proofs speak of.

    Args:
        net: any distance net.
        purpose: what is to be done with it, "certified", "pruned" or "saved".

    Raises:
        TypeError: a module that is not one of this library's, subclasses included, compiled, or with a replaced method
            or another tensor in the place of its own; a tensor of a subclass, which may compute otherwise; a part in
            the place of one of another kind, or that is no module of the net, as in a plain list.
        ValueError: a forward hook, on a module or on all; a constant of another shape than one entry per unit or
            channel; coefficients of a SortNet layer that are not those of its keep_prob; a part of a pruned net that
            was changed, or is among others than it was pruned with.
    """
    if of_all_modules._global_forward_hooks or of_all_modules._global_forward_pre_hooks:
        raise ValueError(f"torch must have no global forward hooks where a net is to be {purpose}, got some")
    for name, module in net.named_modules():
        _check_module(module, f"{type(module).__name__} {name}".strip(), purpose)
    _check_roles(net, purpose)
    _check_shapes(net, purpose)
    check_together(net.parts())


def kind_of(net: object) -> str:
    """The class of what is no net of this library, for a sentence, with the way out for what torch.compile made."""
    kind = type(net).__name__
    return f"{kind}: pass the net that torch.compile was given" if kind == "OptimizedModule" else kind


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor computes as its values do, which one of a subclass may not."""
    return type(tensor) in (Tensor, nn.Parameter)


def check_neurons(layers: Iterable[nn.Module]) -> None:
    """Raises TypeError for a layer that is no plain one of l_inf-dist neurons, with mean shift or without."""
    for layer in layers:
        for part in (layer, *layer.children()):
            if type(part) not in (LInfDist, PrunedDist, MeanShift):
                raise TypeError(f"layers must be l_inf-dist neurons and mean shifts alone, got a {type(part).__name__}")


def check_float32(tensors: Mapping[str, Tensor], purpose: str) -> None:
    """Raises TypeError for a tensor of a net that is not float32, ValueError for one that is not finite."""
    for name, tensor in tensors.items():
        if tensor.dtype is not torch.float32:
            raise TypeError(f"net must be float32 to be {purpose}, got {tensor.dtype} in {name}")
    if name := not_finite(tensors):
        raise ValueError(f"net must have finite weights to be {purpose}, got a non-finite entry in {name}")


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first tensor with NaN or infinity, "" where there is none; a GPU is waited for once for all."""
    ends = torch.stack([torch.stack(tensor.aminmax()).double() for tensor in tensors.values()])
    finite = zip(tensors, ends.isfinite().all(1).tolist(), strict=True)
    return next((name for name, sound in finite if not sound), "")


def _check_module(module: nn.Module, place: str, purpose: str) -> None:
    if type(module) not in _PROVED:
        raise TypeError(f"net must be made of this library's layers alone to be {purpose}, got {place}")
    if "_compiled_call_impl" in vars(module):
        raise TypeError(f"net must not be compiled to be {purpose}, got compile() called on {place}: {_WAY_OUT}")
    replaced = next((attribute for attribute in vars(module) if hasattr(type(module), attribute)), None)
    if replaced:
        raise TypeError(f"net must have the methods of its classes to be {purpose}, got another {replaced} on {place}")
    _check_registered(module, place, purpose)
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"net must have no forward hooks to be {purpose}, got some on {place}")
    if isinstance(module, SortLinear):
        c = module.coefficients
        if not 0 < module.keep_prob <= 1 or c != coefficients(module.keep_prob, len(c)):
            raise ValueError(f"net must have the coefficients of its keep_prob to be {purpose}, got {c} on {place}")
    if isinstance(module, Sealed):
        module.check_constants()


def _check_registered(module: nn.Module, place: str, purpose: str) -> None:
    constants = module._parameters | module._buffers
    if hidden := (constants | module._modules).keys() & vars(module).keys():
        # which a module would read, but neither save nor copy
        raise TypeError(f"net must hold one of each part to be {purpose}, got another {min(hidden)} on {place}")
    for name, constant in constants.items():
        if constant is not None and not is_plain(constant):
            kind = type(constant).__name__
            raise TypeError(f"net must have plain tensors to be {purpose}, got a {kind} as {name} on {place}")


def _check_roles(net: DistanceNet, purpose: str) -> None:
    held = set(net.modules())
    for place, part, kinds in _roles(net):
        kind = type(part).__name__
        if type(part) not in kinds:
            wanted = " or ".join(each.__name__ for each in kinds)
            raise TypeError(f"net must have a {wanted} as its {place} to be {purpose}, got a {kind}")
        if part not in held:
            raise TypeError(f"net must hold its parts as modules to be {purpose}, got a {kind} that is none of them")


def _check_shapes(net: DistanceNet, purpose: str) -> None:
    for name, constant, shape in _constants(net):
        if constant.shape != shape:
            raise ValueError(
                f"net must have a {name} of shape {list(shape)} there to be {purpose}, got {list(constant.shape)}"
            )


def _roles(net: DistanceNet) -> Iterator[tuple[str, nn.Module, tuple[type[nn.Module], ...]]]:
    """Each part that a proof speaks of, its place, and what it may be there."""
    yield "normalize", net.normalize, (Normalize, ValidPixels)
    for layer in net.distance_layers():
        yield "layer", layer, _LAYERS
        if layer.shift is not None:
            yield "shift", layer.shift, (MeanShift,)
    if isinstance(net, CompositeNet):
        yield "head", net.head, (ReLUHead if isinstance(net, ReLUNet) else MLPHead,)
        yield from _head_roles(net.head)


def _head_roles(head: Head) -> Iterator[tuple[str, nn.Module, tuple[type[nn.Module], ...]]]:
    yield "head.fc1", head.fc1, (Linear,)
    yield "head.fc2", head.fc2, (Linear,)
    if isinstance(head, MLPHead):
        yield "head.tanh", head.tanh, (Tanh,)
    if isinstance(head, ReLUHead):
        yield "head.relu", head.relu, (ReLU,)
        yield "head.convolutions", head.convolutions, (nn.ModuleList,)
        for layer in head.convolutions:
            yield "convolution", layer, (Conv2d,)


def _constants(net: DistanceNet) -> Iterator[tuple[str, Tensor, tuple[int, ...]]]:
    """What is added to values and its shape: of another one it might broadcast, over the images of a batch too."""
    yield "mean", net.normalize.mean, (net.input_shape[0], 1, 1)
    for layer in net.distance_layers():
        units = layer.weight.shape[:1]
        if layer.bias is not None:
            yield "bias", layer.bias, units
        if layer.shift is not None:
            yield "running_mean", layer.shift.running_mean, units
    if isinstance(net, CompositeNet):
        for part in (*net.head.hidden_layers(), net.head.fc2):
            if isinstance(part, Affine):
                yield "bias", part.bias, part.weight.shape[:1]
