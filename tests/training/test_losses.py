import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor
from torch.nn import functional as F

from lib.training.losses import hinge_loss, ibp_loss


def hinge_by_loops(logits, y, theta, mix):
    losses = []
    for f, label in zip(logits.tolist(), y.tolist(), strict=True):
        v = [0.0 if i == label else f_i - f[label] + theta for i, f_i in enumerate(f)]
        losses.append(mix * max(0.0, *v) + (1 - mix) / len(v) * sum(max(0.0, v_i) for v_i in v))
    return sum(losses) / len(losses)


class TestHinge:
    def test_a_sample_by_hand(self):
        logits, y = tensor([[1.0, 0.5, -2.0, 0.9]]), tensor([0])  # v = (0, 0.5, -2, 0.9)
        assert hinge_loss(logits, y, 1.0, 1.0).item() == pytest.approx(0.9)
        assert hinge_loss(logits, y, 1.0, 0.0).item() == pytest.approx((0.5 + 0.9) / 4)
        assert hinge_loss(logits, y, 1.0, 0.75).item() == pytest.approx(0.75 * 0.9 + 0.25 * 0.35)

    @given(
        seed=st.integers(0, 1000),
        shape=st.tuples(st.sampled_from([1, 3, 63]), st.sampled_from([2, 10, 500])),
        theta=st.floats(0.01, 10),
        mix=st.floats(0, 1),
    )
    def test_it_is_the_formula_at_any_shape(self, seed, shape, theta, mix):
        generator = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
        y = torch.randint(shape[1], shape[:1], generator=generator)
        assert hinge_loss(logits, y, theta, mix).item() == pytest.approx(hinge_by_loops(logits, y, theta, mix))

    def test_the_maximum_is_theta_minus_the_margin(self):
        logits, y = tensor([[3.0, 1.0, 2.5], [0.0, 4.0, -1.0]]), tensor([0, 1])
        assert hinge_loss(logits, y, 2.0, 1.0).item() == pytest.approx((1.5 + 0.0) / 2)

    def test_it_is_zero_without_gradient_where_all_margins_exceed_theta(self):
        logits = tensor([[9.0, 1.0, 2.0]], requires_grad=True)
        loss = hinge_loss(logits, tensor([0]), 2.0, 0.75)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.tolist() == [[0.0, 0.0, 0.0]]

    def test_its_gradient_pulls_the_label_up_and_the_strongest_rival_down(self):
        logits = tensor([[0.0, 1.0, 0.5]], requires_grad=True)
        hinge_loss(logits, tensor([0]), 2.0, 0.7).backward()
        assert logits.grad[0].tolist() == pytest.approx([-0.7 - 0.2, 0.7 + 0.1, 0.1])

    def test_a_nan_logit_is_not_hidden(self):
        assert hinge_loss(tensor([[0.0, float("nan")], [1.0, 2.0]]), tensor([0, 1]), 1.0, 0.75).isnan()

    @pytest.mark.parametrize("theta", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_threshold_out_of_range_is_refused_by_name(self, theta):
        with pytest.raises(ValueError, match=f"theta is {theta}"):
            hinge_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), theta, 1.0)

    @pytest.mark.parametrize("mix", [-0.1, 1.1, float("nan")])
    def test_a_weight_out_of_range_is_refused_by_name(self, mix):
        with pytest.raises(ValueError, match=f"mix is {mix}"):
            hinge_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 1.0, mix)

    @pytest.mark.parametrize(("logits", "y"), [((0, 3), (0,)), ((2, 3), (3,)), ((2, 3), (2, 1)), ((3,), (3,))])
    def test_an_empty_or_mismatched_batch_is_refused(self, logits, y):
        with pytest.raises(ValueError, match="logits and y have shapes"):
            hinge_loss(torch.zeros(logits), torch.zeros(y, dtype=torch.int64), 1.0, 1.0)


class TestIBP:
    logits = tensor([[1.0, 0.0, -1.0], [0.2, 0.1, 0.0]])
    margins = tensor([[0.0, 0.3, -0.5], [0.4, 0.0, 0.1]])
    y = tensor([0, 1])

    @pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
    def test_kappa_weighs_the_natural_term(self, kappa):
        natural, worst = F.cross_entropy(self.logits, self.y), F.cross_entropy(self.margins, self.y)
        loss = ibp_loss(self.logits, self.margins, self.y, kappa)
        assert loss.item() == pytest.approx((kappa * natural + (1 - kappa) * worst).item())

    def test_the_worst_case_is_log_of_one_plus_the_sum_over_rivals(self):
        rivals = torch.log1p(self.margins[0, 1:].exp().sum()), torch.log1p(self.margins[1, ::2].exp().sum())
        assert ibp_loss(self.logits, self.margins, self.y, 0.0).item() == pytest.approx(sum(rivals).item() / 2)

    def test_margins_of_the_clean_sample_give_the_natural_loss(self):
        clean = self.logits - self.logits.gather(1, self.y[:, None])
        at = [ibp_loss(self.logits, clean, self.y, kappa).item() for kappa in (0.0, 0.3, 1.0)]
        assert at == pytest.approx([at[0]] * 3)

    def test_a_weight_out_of_range_is_refused_by_name(self):
        with pytest.raises(ValueError, match=r"kappa_natural is 1\.5"):
            ibp_loss(self.logits, self.margins, self.y, 1.5)

    def test_an_empty_batch_and_missing_margins_are_refused(self):
        with pytest.raises(ValueError, match="logits and y have shapes"):
            ibp_loss(self.logits[:0], self.margins[:0], self.y[:0], 0.5)
        with pytest.raises(ValueError, match="margin_ub and y have shapes"):
            ibp_loss(self.logits, self.margins[:1], self.y, 0.5)
