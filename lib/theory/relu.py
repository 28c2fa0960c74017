"""Lemmas A.7 and A.8: an l_inf-dist neuron, and with it a whole l_inf-dist net, as a ReLU network."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lib.nets.checks import check_neurons
from lib.nets.layers import LInfDist


class Affine(NamedTuple):
    """v -> weight v + bias, with weight [O, I] and bias [O]."""

    weight: Tensor
    bias: Tensor

    def after(self, inner: "Affine") -> "Affine":
        """The composition v -> self(inner(v)), one affine map."""
        return Affine(self.weight @ inner.weight, self.weight @ inner.bias + self.bias)


class ReLULayers(nn.Module):
    """A fully connected network: affine maps with relu(v) = max(v, 0) between them; no relu at the end.

    Attributes:
        affine: the maps, `torch.nn.Linear`, one more than there are hidden layers.
    """

    def __init__(self, maps: Iterable[Affine]) -> None:
        super().__init__()
        self.affine = nn.ModuleList()
        for weight, bias in maps:
            linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            linear.weight, linear.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
            self.affine.append(linear)

    @property
    def depth(self) -> int:
        """The number of hidden layers."""
        return len(self.affine) - 1

    @property
    def width(self) -> int:
        """The units of the widest hidden layer."""
        return max(linear.out_features for linear in cast(Iterable[nn.Linear], list(self.affine)[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, n] -> [B, O]."""
        for linear in list(self.affine)[:-1]:
            x = linear(x).relu()
        return self.affine[-1](x)


def relu_linf_distance(w: Tensor) -> ReLULayers:
    """Lemma A.7: x -> ||x - w||_inf on R^n as a ReLU network of width 2n and 1 + ceil(log2 n) hidden layers.

    The first hidden layer holds relu(t) and relu(-t) for each t = x_i - w_i, of which |t| is the sum. From then on the
    n items are halved in each layer: max(a, b) = relu(a) + relu(b - a) for a >= 0, two units for a pair, and relu(a) =
    a for an item that is left over. (The lemma's general max(a, b) = relu(a) - relu(-a) + relu(b - a) takes width 3n.)

    Args:
        w: [n], in the dtype that the network is to have.

    Returns:
        A network [B, n] -> [B, 1], equal to the distance up to rounding.

    Raises:
        ValueError: w that is not [n] with n >= 1.
    """
    if w.dim() != 1 or not len(w):
        raise ValueError(f"w must be [n] with n >= 1, got {list(w.shape)}")
    return ReLULayers(_distances(w[None]))


def relu_linf_dist_net(layers: Sequence[LInfDist]) -> ReLULayers:
    """Lemma A.8's substitution: a stack of distance layers at p = inf, in evaluation mode, as one ReLU network.

    Each unit becomes a network of `relu_linf_distance`, side by side with the others of its layer; the affine end of
    one layer, with bias and mean shift, merges with the affine beginning of the next. Layers with n_l inputs and O_l
    units give max_l 2 n_l O_l units of width and sum_l (1 + ceil(log2 n_l)) hidden layers: O(W^2) and O(L log W).

    Args:
        layers: at least one; the inputs of each are the outputs of the one before.

    Raises:
        ValueError: no layer.
        TypeError: other neurons than l_inf-dist ones, or another normalisation than mean shift.
    """
    if not layers:
        raise ValueError("layers is empty, expected at least one distance layer")
    check_neurons(layers)
    maps = _shifted(layers[0])
    for layer in layers[1:]:
        first, *rest = _shifted(layer)
        maps = [*maps[:-1], first.after(maps[-1]), *rest]
    return ReLULayers(maps)


def _shifted(layer: LInfDist) -> list[Affine]:
    """The affine maps of a layer's distances, with its bias and mean shift in the last one."""
    *maps, (weight, bias) = _distances(layer.weight.detach())
    bias = bias if layer.bias is None else bias + layer.bias.detach()
    return [*maps, Affine(weight, bias if layer.shift is None else bias - layer.shift.running_mean)]


def _distances(w: Tensor) -> list[Affine]:
    """The affine maps, relu between them, of x [n] -> (||x - w_o||_inf)_o for w [O, n]."""
    units, n = w.shape
    signs = torch.cat([torch.eye(n), -torch.eye(n)]).to(w)
    maps = [Affine(signs.repeat(units, 1), -(w @ signs.T).flatten())]
    for inner in _halvings(n):
        weight = torch.kron(torch.eye(units), inner).to(w)
        maps.append(Affine(weight, w.new_zeros(len(weight))))
    return maps


def _halvings(n: int) -> list[Tensor]:
    """From relu(t), relu(-t) of n numbers to max |t_i|: the matrices, relu between them; the last is [1, units]."""
    items, maps = torch.eye(n).repeat(1, 2), []
    while len(items) > 1:
        pairs, odd = divmod(len(items), 2)
        first, second, rest = items[: 2 * pairs : 2], items[1 : 2 * pairs : 2], items[2 * pairs :]
        maps.append(torch.cat([first, second - first, rest]))
        items = torch.block_diag(torch.eye(pairs).repeat(1, 2), torch.eye(odd))
    return [*maps, items]
