"""SortNet: the neuron, its coefficients, training without sorting, and what evaluation at finite p stands for."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import lib
from lib.nets.layers import LInfDist
from lib.nets.sortnet import SortLinear, SortNet, coefficients


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class TestCoefficients:
    def test_those_of_the_reference(self) -> None:
        c = SortLinear(20, 3, keep_prob=0.7).coefficients
        assert len(c) == 10
        assert c[:4] == pytest.approx([0.700004, 0.210001, 0.063, 0.0189], abs=1e-6)

    @given(q=st.floats(0.0, 1.0, exclude_min=True), count=st.integers(1, 30))
    @example(q=1e-12, count=10)  # 1 - (1 - q)^10 is off by 2e-5 in float64
    @example(q=1e-17, count=10)
    def test_their_sum_is_one_and_not_more(self, q: float, count: int) -> None:
        c = SortLinear(40, 1, keep_prob=q, top_k=count).coefficients
        assert len(c) == count
        assert 1 - 1e-6 < math.fsum(c) <= 1 + 2**-52
        assert min(c) >= 0 and list(c) == sorted(c, reverse=True) == torch.tensor(c).tolist()

    def test_those_that_would_be_denormal_are_none(self) -> None:
        c = coefficients(1 - 1e-15, 5)
        assert min(c[:3]) >= torch.finfo(torch.float32).tiny and not any(c[3:])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_they_are_the_same_after_a_trip_through_another_precision(self, dtype: torch.dtype) -> None:
        # where they were rounded with the weights, their sum exceeded 1
        layer = SortLinear(20, 3, keep_prob=0.72 if dtype is torch.float16 else 0.85)
        assert layer.to(dtype).float().coefficients == coefficients(layer.keep_prob, 10)

    def test_few_inputs_have_few_places(self) -> None:
        assert len(SortLinear(3, 2, keep_prob=0.5).coefficients) == 3

    def test_keeping_every_input_is_the_distance_itself(self) -> None:
        layer, x = SortLinear(30, 20, keep_prob=1.0).eval(), torch.randn(9, 30)
        plain = LInfDist(30, 20)
        plain.load_state_dict(layer.state_dict())
        assert torch.equal(layer(x), plain.eval()(x))
        torch.testing.assert_close(layer.train()(x, 8.0), plain.train()(x, 8.0), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("q", [0.0, -0.5, 1.01])
    def test_another_probability_is_refused(self, q: float) -> None:
        with pytest.raises(ValueError, match=rf"keep_prob must lie in \(0, 1\], got {q}"):
            SortLinear(3, 2, keep_prob=q)

    def test_no_probability_at_all_is_refused(self) -> None:
        with pytest.raises(ValueError, match="keep_prob must be finite, got nan"):
            SortLinear(3, 2, keep_prob=math.nan)

    def test_no_place_at_all_is_refused(self) -> None:
        with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
            SortLinear(3, 2, keep_prob=0.5, top_k=0)


class TestTraining:
    def test_the_mean_over_draws_is_what_evaluation_sorts(self) -> None:
        layer = SortLinear(24, 3, keep_prob=0.6, mean_shift=False, identity=0.0)
        x = torch.randn(1, 24)
        drawn = torch.cat([layer.train()(x).detach() for _ in range(4000)])
        sorts, largest = layer.eval()(x)[0], torch.cdist(x, layer.weight, p=math.inf)[0]
        gap = (drawn.mean(0) - sorts).abs()
        assert (gap <= 5 * drawn.std(0) / math.sqrt(4000) + 1e-3).all()
        assert (gap < 0.1 * (largest - sorts)).all()

    def test_left_out_inputs_get_no_gradient_and_all_groups_keep_equally_many(self) -> None:
        layer = SortLinear(50, 40, keep_prob=0.5, mean_shift=False, identity=0.0)
        x = torch.randn(70, 50, requires_grad=True)
        layer.train()(x, 8.0).sum().backward()
        assert x.grad is not None
        seen = x.grad != 0
        groups = [group.any(0) for group in seen.split(32)]
        assert len({int(group.sum()) for group in groups}) == 1
        assert all((rows == group).all() for rows, group in zip(seen.split(32), groups, strict=True))
        assert not torch.equal(groups[0], groups[1])

    def test_the_share_of_kept_inputs_is_the_probability(self) -> None:
        layer = SortLinear(1000, 1, keep_prob=0.3, mean_shift=False, identity=0.0)
        x = torch.randn(1, 1000, requires_grad=True)
        layer.train()(x, 1.0).sum().backward()
        assert x.grad is not None
        assert x.grad.count_nonzero().item() == pytest.approx(300, abs=75)

    def test_draws_are_those_of_torchs_generator(self) -> None:
        layer, x = SortLinear(50, 4, keep_prob=0.5).train(), torch.randn(40, 50)
        states = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            states.append(layer(x, 8.0))
        assert torch.equal(states[0], states[1])
        assert not torch.equal(states[0], states[2])


class TestEvaluation:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 2**31), q=st.floats(0.2, 1.0), depth=st.integers(1, 4))
    def test_logits_are_1_lipschitz_at_the_attained_distance(self, seed: int, q: float, depth: int) -> None:
        torch.manual_seed(seed)
        net = SortNet((1, 3, 3), 4, width=12, depth=depth, keep_prob=q, std=0.5).eval()
        x, other = torch.rand(2, 30, 1, 3, 3)
        moved = (net(x) - net(other)).abs().amax(1)
        assert (moved <= (x - other).abs().flatten(1).amax(1) / 0.5 + 1e-5).all()

    def test_a_neuron_attains_the_constant_where_all_inputs_move_away_together(self) -> None:
        layer = SortLinear(12, 1, keep_prob=0.6, mean_shift=False, identity=0.0).eval()
        away = layer.weight + 3.0
        assert (layer(away + 0.25) - layer(away)).item() == pytest.approx(0.25, rel=1e-5)

    def test_the_first_layer_takes_the_whole_maximum(self) -> None:
        net = SortNet((1, 4, 4), 3, width=20, depth=3, keep_prob=0.5)
        assert type(net.layers[0]) is LInfDist
        assert [type(layer) for layer in (*net.layers[1:], net.top)] == [SortLinear, SortLinear]

    def test_at_finite_p_it_is_the_mean_power_over_draws(self) -> None:
        layer, x = SortLinear(20, 5, keep_prob=0.6, mean_shift=False, identity=0.0).eval(), torch.randn(3, 20)
        power = (x[:, None] - layer.weight).abs().pow(4).sum(-1)
        torch.testing.assert_close(layer(x, 4.0).pow(4), 0.6 * power)

    def test_no_rounding_of_a_neuron_exceeds_what_it_declares(self) -> None:
        layer = SortLinear(200, 50, keep_prob=0.4, mean_shift=False, identity=0.0).eval()
        x = torch.randn(100, 200)
        t = (x.double()[:, None] - layer.weight.double()).abs().topk(10, -1).values
        exact = t @ torch.tensor(layer.coefficients, dtype=torch.float64)
        error = (layer(x).double() - exact).abs() / exact / 2**-24
        assert 0.5 < error.max() <= layer.roundings


def test_layers_have_a_mean_shift_and_the_top_has_a_bias() -> None:
    for depth in (1, 3):
        net = SortNet((1, 4, 4), 3, width=20, depth=depth, keep_prob=0.5)
        assert net.top.shift is None and net.top.bias is not None
        assert all(layer.shift is not None and layer.bias is None for layer in net.layers)


def test_sortnet_is_a_public_name_and_is_saved_with_its_neurons(tmp_path) -> None:
    net = lib.SortNet((1, 4, 4), 3, width=20, depth=3, keep_prob=0.7, top_k=4)
    x = torch.rand(9, 1, 4, 4)
    net.train()(x, 8.0)
    lib.save(net, tmp_path / "net.safetensors")
    back = lib.load(tmp_path / "net.safetensors")
    assert torch.equal(back(x), net.eval()(x))
    assert back.top.coefficients == net.top.coefficients
