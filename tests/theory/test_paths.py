import pytest
import torch

from lib import LInfDistNet, SortNet
from lib.nets.base import PlainNet
from lib.theory.addernet import with_batch_norm
from lib.theory.paths import paths


@pytest.fixture
def net() -> LInfDistNet:
    torch.manual_seed(0)
    return LInfDistNet((1, 3, 3), 4, width=12, depth=4, mean=0.4, std=0.5).eval()


def test_a_path_ends_at_the_pixel_that_moves_the_score(net: LInfDistNet) -> None:
    x = torch.rand(20, 1, 3, 3, requires_grad=True)
    pixels = paths(net, x)[-1]
    for k, logits in enumerate(net(x).T):
        (gradient,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
        assert torch.equal(gradient.flatten(1).abs().argmax(1), pixels[:, k])
        assert ((gradient != 0).sum((1, 2, 3)) == 1).all()


def test_there_is_a_unit_for_every_image_score_and_layer(net: LInfDistNet) -> None:
    found = paths(net, torch.rand(5, 1, 3, 3))
    assert [units.shape for units in found] == [(5, 4)] * 4
    assert all(units.max() < width for units, width in zip(found, (12, 12, 12, 9), strict=True))
    assert [units.shape for units in paths(net, torch.rand(0, 1, 3, 3))] == [(0, 4)] * 4


def test_a_net_in_training_comes_back_as_it_was(net: LInfDistNet) -> None:
    x, wanted = torch.rand(5, 1, 3, 3), net.state_dict()
    before, found = {name: value.clone() for name, value in wanted.items()}, paths(net, x)
    assert all(torch.equal(a, b) for a, b in zip(paths(net.train(), x), found, strict=True)) and net.training
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_scores_whose_paths_have_met_move_together(net: LInfDistNet) -> None:
    with torch.no_grad():
        net.top.weight[1] = net.top.weight[0] + torch.sign(net.top.weight[0])  # further by 1 from the same unit
    x = torch.rand(20, 1, 3, 3)
    met = torch.stack([units[:, 0] == units[:, 1] for units in paths(net, x)])
    assert met[-1].any()
    assert (met[1:] | ~met[:-1]).all()  # and stay together from there
    moved = torch.stack([net(x + step) for step in (0.0, 1e-3)]).diff(dim=0)[0]
    assert (moved[met[-1], 0] - moved[met[-1], 1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (SortNet((1, 3, 3), 4, width=12, depth=4, keep_prob=0.6), "SortLinear"),
        (with_batch_norm(LInfDistNet((1, 3, 3), 4, width=12, depth=4)), "BatchNorm"),
    ],
)
def test_units_that_hear_more_than_one_unit_are_refused(other: PlainNet, part: str) -> None:
    with pytest.raises(TypeError, match=f"layers must be l_inf-dist neurons and mean shifts alone, got a {part}"):
        paths(other.eval(), torch.rand(5, 1, 3, 3))
