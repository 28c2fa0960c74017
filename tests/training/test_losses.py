import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor
from torch.nn import functional as F

from lib.training.losses import clipped_hinge_loss, hinge_loss, ibp_loss


def hinge_by_loops(logits, y, theta, mix):
    losses = []
    for f, label in zip(logits.tolist(), y.tolist(), strict=True):
        v = [0.0 if i == label else f_i - f[label] + theta for i, f_i in enumerate(f)]
        losses.append(mix * max(0.0, *v) + (1 - mix) / len(v) * sum(max(0.0, v_i) for v_i in v))
    return sum(losses) / len(losses)


LOSSES = [
    lambda logits, y: hinge_loss(logits, y, 1.0, 0.75),
    lambda logits, y: clipped_hinge_loss(logits, y, 1.0, 0.5, tensor(1.0)),
    lambda logits, y: ibp_loss(logits, logits, y, 0.5),
]


@pytest.mark.parametrize("loss", LOSSES)
class TestLabels:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
    def test_integers_of_any_kind_are_labels(self, loss, dtype):
        y = tensor([0, 2, 1, 2])
        assert torch.equal(loss(self.logits, y.to(dtype)), loss(self.logits, y))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
    def test_what_is_no_integer_is_refused(self, loss, dtype):
        with pytest.raises(TypeError, match=f"^y is of {dtype}, expected integer labels$"):
            loss(self.logits, torch.zeros(4, dtype=dtype))

    # cross-entropy alone would leave -100 out
    @pytest.mark.parametrize(("label", "ends"), [(3, "0 to 3"), (-1, "-1 to 0"), (-100, "-100 to 0")])
    def test_a_label_that_no_class_has_is_refused(self, loss, label, ends):
        with pytest.raises(ValueError, match=f"^y has labels from {ends}, expected 0 to 2$"):
            loss(self.logits, tensor([0, 0, label, 0]))


def test_a_number_that_is_a_text_is_refused_by_name():
    logits, y = torch.zeros(2, 3), tensor([0, 1])
    with pytest.raises(ValueError, match="theta is '8/255', expected a positive number in units"):
        hinge_loss(logits, y, "8/255", 0.75)
    with pytest.raises(ValueError, match=r"^mix is '0\.75', expected a weight between 0 and 1$"):
        hinge_loss(logits, y, 1.0, "0.75")
    with pytest.raises(ValueError, match=r"^ce_weight is '0\.5', expected a finite number of at least 0$"):
        clipped_hinge_loss(logits, y, 1.0, "0.5", tensor(1.0))


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


class TestClippedHinge:
    logits = tensor([[3.0, 1.0, 2.5], [0.0, 4.0, -1.0], [0.5, 0.0, 1.0]])  # margins 0.5, 4 and -0.5
    y = tensor([0, 1, 0])
    one = tensor(1.0)

    def test_the_hinge_is_one_minus_the_share_of_theta_between_zero_and_one(self):
        loss = clipped_hinge_loss(self.logits, self.y, 2.0, 0.0, self.one)
        assert loss.item() == pytest.approx((0.75 + 0.0 + 1.0) / 3)

    @given(
        seed=st.integers(0, 1000),
        shape=st.tuples(st.sampled_from([1, 3, 63]), st.sampled_from([2, 10, 500])),
        theta=st.floats(0.01, 10),
        weight=st.floats(0, 10),
        scale=st.floats(0.1, 10),
    )
    def test_it_is_the_formula_at_any_shape(self, seed, shape, theta, weight, scale):
        generator = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
        y = torch.randint(shape[1], shape[:1], generator=generator)
        losses = []
        for f, label in zip(logits.tolist(), y.tolist(), strict=True):
            margin = f[label] - max(f_i for i, f_i in enumerate(f) if i != label)
            total = sum(math.exp(scale * (f_i - f[label])) for f_i in f)
            losses.append(weight * math.log(total) + min(1.0, max(0.0, 1 - margin / theta)))
        loss = clipped_hinge_loss(logits, y, theta, weight, torch.tensor(scale, dtype=torch.float64))
        assert loss.item() == pytest.approx(sum(losses) / len(losses))

    def test_the_hinge_moves_right_samples_below_theta_only(self):
        logits = self.logits.clone().requires_grad_()
        clipped_hinge_loss(logits, self.y, 2.0, 0.0, self.one).backward()
        third, half = 1 / 3, 1 / 2  # of the mean, of theta
        assert logits.grad[0].tolist() == pytest.approx([-third * half, 0, third * half])
        assert logits.grad[1:].count_nonzero() == 0

    def test_the_cross_entropy_moves_wrong_samples_and_the_scale(self):
        logits, scale = self.logits.clone().requires_grad_(), tensor(2.0, requires_grad=True)
        clipped_hinge_loss(logits, self.y, 2.0, 0.3, scale).backward()
        expected = self.logits.clone().requires_grad_()
        (0.3 * F.cross_entropy(2.0 * expected, self.y)).backward()
        assert logits.grad[2].tolist() == pytest.approx(expected.grad[2].tolist())
        probabilities = (2 * self.logits).softmax(1)
        slope = 0.3 * ((probabilities * self.logits).sum(1) - self.logits.gather(1, self.y[:, None])[:, 0]).mean()
        assert scale.grad.item() == pytest.approx(slope.item())

    @pytest.mark.parametrize("theta", [0.0, float("inf")])
    def test_a_threshold_out_of_range_is_refused_by_name(self, theta):
        with pytest.raises(ValueError, match=f"theta is {theta}"):
            clipped_hinge_loss(self.logits, self.y, theta, 0.1, self.one)

    @pytest.mark.parametrize("weight", [-0.1, float("nan")])
    def test_a_weight_out_of_range_is_refused_by_name(self, weight):
        with pytest.raises(ValueError, match=f"ce_weight is {weight}"):
            clipped_hinge_loss(self.logits, self.y, 1.0, weight, self.one)

    def test_an_empty_batch_is_refused(self):
        with pytest.raises(ValueError, match="logits and y have shapes"):
            clipped_hinge_loss(self.logits[:0], self.y[:0], 1.0, 0.1, self.one)


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


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, y: hinge_loss(logits, y, theta=0.4, mix=0.5),
        lambda logits, y: clipped_hinge_loss(logits, y, theta=0.4, ce_weight=0.1, logit_scale=tensor(1.0)),
        lambda logits, y: ibp_loss(logits, logits, y, kappa_natural=0.5),
    ],
)
def test_a_loss_compiles_whole(loss):
    logits, y = torch.randn(6, 4), torch.arange(6) % 4
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, y), loss(logits, y))
