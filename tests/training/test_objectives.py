"""What a step minimises on the box of a net: wide around features, cut to valid images around pixels."""

import torch
from torch import Tensor

from lib.nets.box import Box
from lib.nets.models import LInfDistNetMLP, ReLUNet
from lib.training.losses import ibp_loss
from lib.training.objectives import WorstCase
from lib.training.schedules import Knobs

SHAPE = (1, 4, 4)


def knobs(eps: float) -> Knobs:
    return Knobs(p=torch.inf, lr=0.1, eps=eps, kappa=0.3, ce_weight=0.0)


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(6, *SHAPE).round(decimals=1), torch.arange(6) % 3


def test_a_composite_net_is_bounded_on_the_cube_around_its_features() -> None:
    x, y = batch()
    net = LInfDistNetMLP(SHAPE, 3, width=5, depth=2, hidden=4, mean=0.3, std=0.5)
    net(x)
    net.eval()
    logits, loss = WorstCase()(net, x, y, knobs(0.2))
    z = net.features(x)
    bound = net.head.ibp_margin(Box(z - 0.2 / 0.5, z + 0.2 / 0.5), y)
    torch.testing.assert_close(logits, net(x))
    torch.testing.assert_close(loss, ibp_loss(logits, bound, y, 0.3))


def test_a_relu_net_is_bounded_on_the_valid_images_within_eps() -> None:
    x, y = batch()
    net = ReLUNet(SHAPE, 3, width=3, depth=4, hidden=6, mean=0.3, std=0.5)
    logits, loss = WorstCase()(net, x, y, knobs(0.2))
    valid = Box((x - 0.2).clamp(min=0), (x + 0.2).clamp(max=1)).map(net.features)
    torch.testing.assert_close(loss, ibp_loss(logits, net.head.ibp_margin(valid, y), y, 0.3))
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())
