"""Growth, gradients and depth: the numbers of Section 5."""

import contextlib
import math

import pytest
import torch

from lib.nets.models import LInfDistNet, build
from lib.theory.section_5 import expected_largest, extreme_value_form, layer_means, moved_shares, spreads
from lib.theory.small import at_exponent, small_recipe

# n, E||w||_inf by Monte Carlo, sqrt(2 ln n), extreme-value form: the reference's table
TABLE = [
    (784, 3.378, 3.651, 3.396),
    (3072, 3.741, 4.008, 3.753),
    (5120, 3.861, 4.133, 3.879),
    (9408, 4.008, 4.278, 4.024),
]


@pytest.mark.parametrize(("n", "measured", "paper", "limit"), TABLE)
def test_the_largest_of_gaussians_is_that_of_the_reference(n: int, measured: float, paper: float, limit: float) -> None:
    assert expected_largest(n) == pytest.approx(measured, rel=0.005)  # measured by Monte Carlo
    assert math.sqrt(2 * math.log(n)) == pytest.approx(paper, abs=0.0006)
    assert extreme_value_form(n) == pytest.approx(limit, abs=0.0006)


def test_the_largest_of_one_and_two_is_known_exactly() -> None:
    assert expected_largest(1) == pytest.approx(math.sqrt(2 / math.pi), abs=1e-6)
    assert expected_largest(2) == pytest.approx(2 / math.sqrt(math.pi), abs=1e-6)


def test_outputs_grow_almost_linearly_without_mean_shift_and_not_at_all_with_it() -> None:
    widths = [3072, *[512] * 6]
    assert layer_means(widths, mean_shift=False) == pytest.approx([3.7, 7.0, 10.3, 13.7, 17.2, 20.7], rel=0.03)
    assert layer_means(widths, mean_shift=True) == pytest.approx([0] * 6, abs=1e-5)


class TestMovedShares:
    recipe = small_recipe(width=96, depth=3, identity=0.0, decay="none", weight_decay=0.0, train_limit=512)

    def shares(self, p: float) -> list[float]:
        return moved_shares(build(self.recipe, seed=0), at_exponent(self.recipe, p))

    def test_few_weights_learn_at_p_inf_and_all_at_p_8(self) -> None:
        at_inf, at_8 = self.shares(math.inf), self.shares(8.0)
        assert all(0 < share < 0.15 for share in at_inf)
        assert min(at_8) > 0.95

    def test_a_neuron_cannot_learn_more_weights_than_it_sees_images(self) -> None:
        recipe = self.recipe.replace(train_limit=3, batch_size=3)
        first, *_ = moved_shares(build(recipe, seed=0), at_exponent(recipe, math.inf))
        assert 0 < first <= 3 / 64

    def test_decay_is_refused(self) -> None:
        recipe = self.recipe.replace(decay="l2", weight_decay=0.005)
        with pytest.raises(ValueError, match="decay is 'l2', expected 'none'"):
            moved_shares(build(recipe), recipe)


def test_the_identity_carries_the_signal_through_depth_and_gaussian_weights_lose_it() -> None:
    x = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for p in (8.0, math.inf):
        torch.manual_seed(0)
        copying = spreads(LInfDistNet((1, 4, 4), 3, width=32, depth=11, std=0.3), x, p)
        losing = spreads(LInfDistNet((1, 4, 4), 3, width=32, depth=11, std=0.3, identity=0.0), x, p)
        assert len(copying) == len(losing) == 11
        assert copying[-1] == pytest.approx(copying[0], rel=0.1)
        assert losing[-1] < 0.2 * losing[0]


@pytest.mark.parametrize("p", [8.0, 0.5])
def test_spreads_leave_the_net_as_it_was(p: float) -> None:
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=3).eval()
    net.layers[0].train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with contextlib.suppress(ValueError):  # no exponent is below 1
        spreads(net, torch.rand(5, 1, 4, 4), p)
    assert not net.training and net.layers[0].training and not net.layers[1].training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
