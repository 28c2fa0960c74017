"""The two contrasts: what l_1 neurons and batch norm do to the Lipschitz constant and to half the margin."""

import math

import pytest
import torch

from lib import Box, LInfDistNet
from lib.nets.layers import LInfDist
from lib.robustness.inputs import pixel_box
from lib.theory.addernet import AdderNet, BatchNorm, batch_norm_bound, with_batch_norm
from lib.theory.lipschitz import net_lipschitz_bound
from lib.theory.lipschitz_search import pair_steepness
from lib.theory.naive import half_margin

SHAPE = (1, 3, 3)


def normalised_net() -> LInfDistNet:
    torch.manual_seed(0)
    net = with_batch_norm(LInfDistNet(SHAPE, 3, width=9, depth=3, identity=0.0))
    for _ in range(60):
        net(torch.rand(64, *SHAPE))
    return net.eval()


class TestBatchNorm:
    def test_is_torchs_batch_norm_without_its_affine_part(self) -> None:
        ours, theirs = BatchNorm(5), torch.nn.BatchNorm1d(5, affine=False)
        for y in torch.randn(20, 64, 5) * torch.arange(1, 6):
            torch.testing.assert_close(ours(y), theirs(y))
        y = torch.randn(7, 5)
        # torch divides by n - 1 in the running average
        torch.testing.assert_close(ours.eval()(y), theirs.eval()(y), rtol=0.02, atol=1e-3)

    def test_passes_gradients_through_both_moments(self) -> None:
        y = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(BatchNorm(2).double(), (y,))

    def test_stretches_by_what_it_says_and_no_more(self) -> None:
        norm = BatchNorm(3).eval()
        norm.running_var = torch.tensor([4.0, 0.04, 1.0])
        assert norm.stretch() == pytest.approx(5, rel=1e-3)
        moved = norm(torch.ones(1, 3)) - norm(torch.zeros(1, 3))
        assert moved.abs().max().item() == pytest.approx(norm.stretch())

    def test_bounds_hold_what_is_inside(self) -> None:
        net, x = normalised_net(), torch.rand(20, *SHAPE)
        lower, upper = net.bounds(Box(x - 0.1, x + 0.1))
        for _ in range(50):
            logits = net(x + 0.2 * torch.rand_like(x) - 0.1)
            assert ((lower <= logits) & (logits <= upper)).all()


class TestDistanceNetWithBatchNorm:
    def test_breaks_fact_3_4_within_the_product_of_its_stretches(self) -> None:
        net = normalised_net()
        x = torch.rand(200, *SHAPE)
        steepest = pair_steepness(net, x, x + 0.01 * torch.randn_like(x))
        assert 1.1 < steepest <= batch_norm_bound(net)

    def test_breaks_half_the_margin_but_not_the_intervals(self) -> None:
        net, x = normalised_net(), torch.rand(500, *SHAPE)
        y = net(x).argmax(1)
        claim = half_margin(net, x, y)
        # towards the nearest image of another class, as far as half the margin says is safe
        gaps = (x[:, None] - x).flatten(2).abs().amax(2).masked_fill(y[:, None] == y, math.inf)
        assert (claim > gaps.amin(1)).any()
        for eps in (0.01, 0.05):
            logits = net.bounds(pixel_box(x, eps))
            rivals = logits.upper.scatter(1, y[:, None], -math.inf).amax(1)
            proved = logits.lower.gather(1, y[:, None]).squeeze(1) > rivals
            assert proved.any() and (eps < gaps.amin(1))[proved].all()

    def test_mean_shift_alone_has_no_stretch(self) -> None:
        assert batch_norm_bound(LInfDistNet(SHAPE, 3, width=9, depth=3)) == 1

    @pytest.mark.parametrize("training", [True, False])
    def test_takes_the_mode_the_type_and_the_device_of_its_layer(self, training: bool) -> None:
        net = with_batch_norm(LInfDistNet(SHAPE, 3, width=9, depth=3).train(training).double().to("meta"))
        assert all(module.training is training for module in net.modules())
        assert {(t.dtype, t.device.type) for t in net.state_dict().values()} == {(torch.float64, "meta")}

    def test_every_hidden_layer_gets_its_own(self) -> None:
        net = normalised_net()
        assert all(isinstance(layer.shift, BatchNorm) for layer in net.layers if isinstance(layer, LInfDist))
        assert net.top.shift is None


class TestAdderNet:
    net = AdderNet(SHAPE, 3, width=9, depth=2, mean=0.5, std=0.5)

    def test_measures_l_1_distances_whatever_p_is(self) -> None:
        self.net.eval()
        x = torch.rand(4, *SHAPE)
        v = (x.flatten(1) - 0.5) / 0.5
        hidden = torch.cdist(v, self.net.layers[0].weight, p=1) / math.sqrt(1 + 1e-5)
        want = -torch.cdist(hidden, self.net.top.weight, p=1)
        for p in (1, 8, math.inf):
            torch.testing.assert_close(self.net(x, p), want)

    def test_is_built_again_from_its_arguments(self) -> None:
        again = AdderNet(**self.net.config)
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in self.net.state_dict().items()
        }

    def test_is_far_steeper_than_any_linf_net_and_within_its_own_bound(self) -> None:
        x = torch.rand(20, *SHAPE)
        steepest = pair_steepness(self.net.eval(), x, x + 0.1)
        assert 2 < steepest <= net_lipschitz_bound((9, 9), 1)

    def test_decays_all_its_distances(self) -> None:
        assert len(self.net.distance_weights()) == 2

    def test_has_no_interval_bounds(self) -> None:
        x = torch.rand(1, *SHAPE)
        with pytest.raises(ValueError, match="an AdderNet is evaluated at p = 1"):
            self.net.feature_bounds(Box(x, x))
        with pytest.raises(ValueError, match="an AdderNet is evaluated at p = 1"):
            self.net.logit_bounds(Box(x.flatten(1), x.flatten(1)))
