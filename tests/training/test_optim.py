import io
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn, tensor

from lib import recipes
from lib.nets.models import build
from lib.training import optim
from lib.training.objectives import make_objective
from lib.training.optim import AdamLp, decay_, make_optimizer

SMOKE = recipes.load("digits/linf-dist-net", "smoke")


def decay_direction(w, p):
    """What a decay at rate 1 takes away."""
    decayed = w.clone()
    decay_(decayed, p, 1.0)
    return w - decayed


def gradient_of_half_the_square(w, p):
    w = w.clone().requires_grad_()
    (torch.linalg.vector_norm(w.flatten(1), p, dim=1) ** 2 / 2).sum().backward()
    return w.grad


def parameters(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def set_gradients(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in params:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


class TestDecay:
    w = tensor([[3.0, -4.0, 1.0]], dtype=torch.float64)

    @pytest.mark.parametrize(
        ("p", "direction"),
        [
            (2.0, [3.0, -4.0, 1.0]),
            (8.0, [0.497057201, -3.72372436, 2.27278e-4]),
            (math.inf, [0.0, -4.0, 0.0]),
        ],
    )
    def test_vectors_of_the_formula(self, p, direction):
        assert decay_direction(self.w, p)[0].tolist() == pytest.approx(direction, rel=1e-6)

    @given(
        seed=st.integers(0, 1000),
        shape=st.sampled_from([(1, 1), (5, 63), (3, 500), (4, 3, 3, 3)]),
        p=st.one_of(st.floats(1, 1200), st.sampled_from([1.0, 2.0, 4.0, 8.0, 16.0, 1024.0])),
    )
    @example(seed=313, shape=(1, 1), p=1065.0)
    @settings(deadline=None)
    def test_it_follows_the_gradient_of_half_the_squared_norm(self, seed, shape, p):
        generator = torch.Generator().manual_seed(seed)
        # kept at most 1 and away from 0, so that autograd's own powers stay finite
        w = torch.rand(shape, generator=generator, dtype=torch.float64) * 0.4 + 0.6
        w *= torch.randint(2, shape, generator=generator) * 2 - 1
        torch.testing.assert_close(decay_direction(w, p), gradient_of_half_the_square(w, p), rtol=1e-9, atol=1e-12)

    def test_a_neuron_of_a_convolution_is_one_vector(self):
        w = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        assert torch.equal(decay_direction(w, 8.0).flatten(1), decay_direction(w.flatten(1), 8.0))

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    @pytest.mark.parametrize("p", [8.0, 37.3, 1000.0, 1024.0])
    def test_no_power_overflows_or_vanishes_in_float32(self, p, scale):
        direction = decay_direction(self.w.float() * scale, p) / scale
        torch.testing.assert_close(direction, decay_direction(self.w, p).float(), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 8.0, 1000.0, math.inf])
    def test_rows_and_entries_of_zeros_stay_zero(self, p):
        w = tensor([[0.0, 0.0], [0.0, -2.0], [5e-42, 0.0]])
        direction = decay_direction(w, p)
        assert direction.isfinite().all()
        assert direction[0].tolist() == [0, 0]
        assert direction[1].tolist() == [0, -2]
        assert direction[2, 1] == 0

    def test_at_infinity_the_first_of_equal_entries_decays(self):
        w = tensor([[1.0, -2.0, 2.0, -2.0]])
        decay_(w, math.inf, 0.25)
        assert w.tolist() == [[1.0, -1.5, 2.0, -2.0]]

    def test_a_nan_weight_is_not_hidden(self):
        for p in (8.0, 9.5, math.inf):
            w = tensor([[1.0, math.nan], [3.0, 4.0]])
            decay_(w, p, 0.1)
            assert w[0].isnan().any()
            assert w[1].isfinite().all()

    @pytest.mark.parametrize("p", [1.5, 2.0, 8.0, 37.3, math.inf])
    def test_a_large_weight_decays_part_by_part_and_bit_for_bit_as_at_once(self, p, monkeypatch):
        at_once, in_parts = (parameters((700, 501))[0].data for _ in range(2))
        monkeypatch.setattr(optim, "_CPU_ENTRIES", at_once.numel() * 2)
        decay_(at_once, p, 1e-2)
        monkeypatch.setattr(optim, "_CPU_ENTRIES", 1)
        decay_(in_parts, p, 1e-2)
        assert torch.equal(in_parts, at_once)

    @pytest.mark.parametrize("p", [1.5, 2.0, 8.0, math.inf])
    def test_the_layout_in_memory_is_of_no_account(self, p):
        plain = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        channels_last = plain.clone(memory_format=torch.channels_last)
        for w in (plain, channels_last):
            decay_(w, p, 0.1)
        assert torch.equal(channels_last, plain)
        assert channels_last.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("p", [1.5, 2.0, 8.0, math.inf])
    def test_a_number_is_a_neuron_of_one_entry_and_of_nothing_nothing_decays(self, p):
        w = tensor(2.0)
        decay_(w, p, 0.25)
        assert w.item() == 1.5
        for shape in ((0,), (0, 3), (3, 0)):
            decay_(torch.empty(shape), p, 0.25)

    @pytest.mark.parametrize("p", [0.5, -math.inf, math.nan])
    def test_an_exponent_below_1_is_refused(self, p):
        with pytest.raises(ValueError, match=f"p is {p}"):
            decay_(torch.ones(1, 2), p, 0.1)


class TestAdamLp:
    def options(self, **changes):
        return {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-10, "fused": True} | changes

    @pytest.mark.parametrize("fused", [True, None])
    def test_without_decay_it_is_torchs_adam(self, fused):
        ours, theirs = parameters((5, 63), (7,)), parameters((5, 63), (7,))
        optimizers = AdamLp(ours, **self.options(fused=fused)), torch.optim.Adam(theirs, **self.options(fused=fused))
        for step in range(5):
            for params, optimizer in zip((ours, theirs), optimizers, strict=True):
                set_gradients(params, step)
                optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    def test_ordinary_decay_is_torchs_adamw(self):
        ours, theirs = parameters((5, 63)), parameters((5, 63))
        options = self.options(weight_decay=0.3)
        for params, optimizer in ((ours, AdamLp(ours, **options)), (theirs, torch.optim.AdamW(theirs, **options))):
            for step in range(3):
                set_gradients(params, step)
                optimizer.step()
        assert torch.equal(ours[0], theirs[0])

    @pytest.mark.parametrize("p", [8.0, 37.3, math.inf])
    def test_the_decay_comes_before_the_step_with_the_current_rate_and_exponent(self, p):
        ours, theirs = parameters((5, 63)), parameters((5, 63))
        optimizer = AdamLp(ours, **self.options(lp_decay=0.5))
        plain = torch.optim.Adam(theirs, **self.options())
        optimizer.set_knobs(p=p, lr=0.1)
        plain.param_groups[0]["lr"] = 0.1
        for params in (ours, theirs):
            set_gradients(params, 1)
        optimizer.step()
        with torch.no_grad():
            decay_(theirs[0], p, 0.1 * 0.5)
        plain.step()
        assert torch.equal(ours[0], theirs[0])

    def test_a_closure_sees_the_weights_before_the_decay(self):
        (w,) = parameters((2, 3))
        before, seen = w.detach().clone(), []
        optimizer = AdamLp([w], **self.options(lp_decay=0.5))

        def closure():
            seen.append(w.detach().clone())
            loss = w.square().sum()
            loss.backward()
            return loss

        loss = optimizer.step(closure)
        assert torch.equal(seen[0], before)
        assert loss.item() == pytest.approx(before.square().sum().item())
        assert not torch.equal(w, before)

    def test_a_group_that_is_added_later_has_the_same_knobs(self):
        first, second = parameters((2, 3), (3,))
        optimizer = AdamLp([first], 0.1, betas=(0.9, 0.99), eps=1e-8, lp_decay=0.5, p=8.0)
        optimizer.add_param_group({"params": [second], "lp_decay": 0.0})
        optimizer.set_knobs(16.0, 0.05)
        assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05]
        assert [group["lp_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
        assert [group["p"] for group in optimizer.param_groups] == [16.0, 16.0]

    def test_a_parameter_without_gradient_does_not_decay(self):
        (w,) = parameters((2, 3))
        before = w.detach().clone()
        AdamLp([w], **self.options(lp_decay=0.5, weight_decay=0.5)).step()
        assert torch.equal(w, before)

    @pytest.mark.parametrize("fused", [True, False])
    def test_a_step_that_a_grad_scaler_skips_does_not_decay(self, fused):
        (w,) = parameters((2, 3))
        before = w.detach().clone()
        optimizer, scaler = AdamLp([w], **self.options(lp_decay=0.5, fused=fused)), torch.amp.GradScaler("cpu")
        for factor, moves in ((math.inf, False), (1.0, True)):
            optimizer.zero_grad()
            scaler.scale((w * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(w, before) is not moves

    @pytest.mark.parametrize("fused", [True, False])
    def test_a_step_that_a_grad_scaler_takes_decays_as_without_one(self, fused):
        (ours,), (theirs,) = parameters((2, 3)), parameters((2, 3))
        options = self.options(lp_decay=0.5, p=8.0, fused=fused)
        optimizer, scaler = AdamLp([ours], **options), torch.amp.GradScaler("cpu", init_scale=4.0)
        scaler.scale(ours.sum()).backward()
        scaler.step(optimizer)
        theirs.sum().backward()
        AdamLp([theirs], **options).step()
        assert torch.equal(ours, theirs)

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            *(("p", value, "1 <= p <= inf") for value in (0.5, math.nextafter(1.0, 0.0), "8", math.nan, None)),
            *(("lp_decay", value, "a finite number of at least 0") for value in (-1.0, "1", math.nan, math.inf)),
        ],
    )
    def test_a_decay_without_meaning_is_refused_by_name(self, name, value, expected):
        sentence = f"^{name} is {value!r}, expected {expected}$"
        params = parameters((2, 3), (3,))
        with pytest.raises(ValueError, match=sentence):
            AdamLp(params, **self.options(**{name: value}))
        with pytest.raises(ValueError, match=sentence):
            AdamLp([{"params": params, name: value}], **self.options())
        optimizer = AdamLp(params[:1], **self.options())
        with pytest.raises(ValueError, match=sentence):
            optimizer.add_param_group({"params": params[1:], name: value})

    def test_knobs_without_meaning_are_refused_by_name(self):
        optimizer = AdamLp(parameters((2, 3)), **self.options())
        with pytest.raises(ValueError, match=r"^p is 0\.5, expected 1 <= p <= inf$"):
            optimizer.set_knobs(p=0.5, lr=0.1)
        for lr in (-0.1, math.nan, "0.1"):
            with pytest.raises(ValueError, match=f"^lr is {lr!r}, expected a number of at least 0$"):
                optimizer.set_knobs(p=8.0, lr=lr)
        assert (optimizer.param_groups[0]["p"], optimizer.param_groups[0]["lr"]) == (math.inf, 0.02)

    def test_it_goes_on_from_its_state_bit_for_bit(self):
        params = parameters((5, 63), (7,))
        optimizer = AdamLp(params, **self.options(lp_decay=0.5))
        for step in range(3):
            optimizer.set_knobs(p=8.0 * 2**step, lr=0.01)
            set_gradients(params, step)
            optimizer.step()
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        copies = [nn.Parameter(parameter.detach().clone()) for parameter in params]
        resumed = AdamLp(copies, **self.options())
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert resumed.param_groups[0]["p"] == 32
        for group, continued in ((params, optimizer), (copies, resumed)):
            set_gradients(group, 3)
            continued.step()
        assert all(torch.equal(a, b) for a, b in zip(params, copies, strict=True))

    def test_it_goes_on_from_a_state_of_adam_with_its_own_decay(self):
        params, others = parameters((2, 3), (4,)), parameters((2, 3), (4,))
        adam = torch.optim.Adam(others, lr=0.3, weight_decay=0.1)
        set_gradients(others, 0)
        adam.step()
        groups = [{"params": params[:1], "lp_decay": 0.5, "p": 8.0, "lr_share": 0.2}, {"params": params[1:]}]
        optimizer = AdamLp(groups, **self.options())
        state = adam.state_dict()
        state["param_groups"] = [state["param_groups"][0] | {"params": [n]} for n in range(2)]
        optimizer.load_state_dict(state)
        first, second = optimizer.param_groups
        assert (first["lp_decay"], first["p"], first["lr_share"]) == (0.5, 8.0, 0.2)
        assert (second["lp_decay"], second["p"], second["lr_share"]) == (0.0, math.inf, 1.0)
        assert all((group["lr"], group["decoupled_weight_decay"]) == (0.3, True) for group in (first, second))
        set_gradients(params, 1)
        optimizer.step()
        assert optimizer.state[params[0]]["step"] == 2

    def test_hooks_of_a_step_run_once_whatever_optimisers_there_are(self):
        torch.optim.Adam(parameters((1,)))  # from the first one on, torch's class has hooks too
        params = parameters((2, 3))
        optimizer, seen = AdamLp(params, **self.options(lp_decay=0.5)), []
        optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
        optimizer.register_step_post_hook(lambda *_: seen.append("after"))
        set_gradients(params, 0)
        optimizer.step()
        assert seen == ["before", "after"] and optimizer.state[params[0]]["step"] == 1


class TestMakeOptimizer:
    @pytest.mark.parametrize(
        ("decay", "of_distance", "of_other"),
        [("lp", (0.005, 0), (0, 0.005)), ("l2", (0, 0.005), (0, 0.005)), ("none", (0, 0), (0, 0))],
    )
    @pytest.mark.parametrize("name", ["digits/linf-dist-net", "digits/linf-dist-net-mlp"])
    def test_distance_weights_decay_as_the_recipe_says_and_the_rest_ordinarily(
        self, name, decay, of_distance, of_other
    ):
        recipe = recipes.load(name, "smoke").replace(decay=decay, weight_decay=0.0 if decay == "none" else 0.005)
        net = build(recipe)
        optimizer = make_optimizer(net, make_objective(recipe), recipe)
        distance, other = optimizer.param_groups
        assert [id(w) for w in distance["params"]] == [id(w) for w in net.distance_weights()]
        assert {id(w) for group in (distance, other) for w in group["params"]} == {id(w) for w in net.parameters()}
        assert (distance["lp_decay"], distance["weight_decay"]) == of_distance
        assert (other["lp_decay"], other["weight_decay"]) == of_other

    def test_a_net_of_ones_own_is_refused_by_its_name(self):
        with pytest.raises(TypeError, match="net is Linear, expected a net of this library"):
            make_optimizer(nn.Linear(2, 3), make_objective(SMOKE), SMOKE)

    def test_it_takes_adams_numbers_from_the_recipe(self):
        recipe = SMOKE.replace(lr=0.03, beta1=0.8, beta2=0.95, adam_eps=1e-11)
        for group in make_optimizer(build(recipe), make_objective(recipe), recipe).param_groups:
            assert (group["lr"], group["betas"], group["eps"], group["p"]) == (0.03, (0.8, 0.95), 1e-11, 8)
            assert group["fused"]

    def test_the_scale_of_the_logits_has_a_rate_and_a_decay_of_its_own(self):
        recipe = recipes.load("digits/linf-dist-net-v2", "smoke").replace(logit_scale_decay=0.02)
        objective = make_objective(recipe)
        optimizer = make_optimizer(build(recipe), objective, recipe)
        *others, scale = optimizer.param_groups
        assert scale["params"] == [objective.logit_scale]
        optimizer.set_knobs(p=8.0, lr=0.015)  # half of the recipe's 0.03
        assert [group["lr"] for group in others] == [0.015, 0.015]
        assert scale["lr"] == pytest.approx(0.003)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0, 0.02]


def test_knobs_may_be_tensors_and_a_group_that_is_none_is_left_to_torch():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = AdamLp([weight], lr=0.1, betas=(0.9, 0.99), eps=1e-10, lp_decay=0.1)
    optimizer.set_knobs(p=torch.tensor(8.0), lr=torch.tensor(0.05))
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert (weight < 1).all()
    with pytest.raises(TypeError, match="must be a dict"):
        optimizer.add_param_group([3])
