import pytest
import torch

from lib import LInfDistNet, SortNet
from lib.nets.base import PlainNet
from lib.theory.addernet import with_batch_norm
from lib.theory.paths import paths


@pytest.fixture
def net() -> LInfDistNet:
    torch.manual_seed(0)
    return LInfDistNet((1, 3, 3), 4, width=12, depth=4, mean=0.4, std=0.5, identity=0.0).eval()


def test_a_path_ends_at_the_pixel_that_moves_the_score_and_says_which_way(net: LInfDistNet) -> None:
    x = torch.rand(20, 1, 3, 3, requires_grad=True)
    pixels, slopes = paths(net, x)[-1]
    for k, logits in enumerate(net(x).T):
        (gradient,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
        wanted = torch.zeros(20, 9).scatter(1, pixels[:, k : k + 1], slopes[:, k : k + 1].float())
        assert torch.equal(gradient.flatten(1) * net.std, wanted)
    assert set(slopes.unique().tolist()) == {-1, 1}


def test_a_path_has_a_slope_in_every_layer(net: LInfDistNet) -> None:
    x = torch.rand(20, 1, 3, 3)
    features = net.features(x).requires_grad_()
    units, slopes = paths(net, x)[0]
    for k, logits in enumerate(-net.top(features).T):
        (gradient,) = torch.autograd.grad(logits.sum(), features, retain_graph=True)
        assert torch.equal(gradient, torch.zeros(20, 12).scatter(1, units[:, k : k + 1], slopes[:, k : k + 1].float()))


def test_of_units_that_are_equally_far_the_first_is_followed(net: LInfDistNet) -> None:
    layer = net.distance_layers()[-2]
    with torch.no_grad():
        layer.weight[7] = layer.weight[3]
        net.top.weight[:, [3, 7]] = -500.0
    x = torch.rand(20, 1, 3, 3)
    assert torch.equal(net.features(x)[:, 3], net.features(x)[:, 7])
    assert (paths(net, x)[0].units == 3).all()


def test_there_is_a_unit_for_every_image_score_and_layer(net: LInfDistNet) -> None:
    found = [units for units, _ in paths(net, torch.rand(5, 1, 3, 3))]
    assert [units.shape for units in found] == [(5, 4)] * 4
    assert all(units.max() < width for units, width in zip(found, (12, 12, 12, 9), strict=True))
    assert [units.shape for units, _ in paths(net, torch.rand(0, 1, 3, 3))] == [(0, 4)] * 4


def test_a_net_in_training_comes_back_as_it_was(net: LInfDistNet) -> None:
    x, wanted = torch.rand(5, 1, 3, 3), net.state_dict()
    before, found = {name: value.clone() for name, value in wanted.items()}, paths(net, x)
    again = paths(net.train(), x)
    assert all(torch.equal(a, b) for one, two in zip(again, found, strict=True) for a, b in zip(one, two, strict=True))
    assert net.training
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_paths_that_have_met_stay_together_as_they_met(net: LInfDistNet) -> None:
    found = paths(net, torch.rand(200, 1, 3, 3))
    met = torch.stack([units[:, 0] == units[:, 1] for units, _ in found])
    alike = torch.stack([slopes[:, 0] == slopes[:, 1] for _, slopes in found])
    assert met[-1].any() and not met[-1].all()
    assert (met[1:] | ~met[:-1]).all()
    assert ((alike[1:] == alike[:-1]) | ~met[:-1]).all()


@pytest.mark.parametrize("same", [True, False])
def test_scores_whose_paths_have_met_move_together_or_apart(net: LInfDistNet, same: bool) -> None:
    first, second = net.top.weight.detach()[:2]
    with torch.no_grad():
        # far below, or above, what the unit that both follow can be
        first[3], second[3] = -500.0, -400.0 if same else 500.0
    x = torch.rand(20, 1, 3, 3)
    found = paths(net, x)
    assert all((units[:, 0] == units[:, 1]).all() for units, _ in found)
    assert all(((slopes[:, 0] == slopes[:, 1]) == same).all() for _, slopes in found)
    moved = torch.stack([net.double()(x.double() + step) for step in (0.0, 1e-4)]).diff(dim=0)[0]
    assert moved.abs().min() > 1e-4
    torch.testing.assert_close(moved[:, 0], moved[:, 1] if same else -moved[:, 1])


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
