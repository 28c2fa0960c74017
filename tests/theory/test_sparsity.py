import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import Box, lp_dist
from lib.theory.sparsity import counting_terms, needed_weights, power_sums, visited_weights


def test_a_weight_is_needed_where_it_can_exceed_the_least_distance() -> None:
    box = Box(torch.tensor([[-1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.5, 0.5]]))
    w = torch.tensor([[-4.0, 2.5], [3.0, -2.9]])
    # First box: least 3 and 2.9, greatest 5, 2.5 and 4, 3.9. Second: least 4 and 2.9, greatest 4.5, 2.5 and 3, 3.4.
    assert needed_weights(box, w).tolist() == [0.75, 0.75]
    point = Box(box.lower, box.lower)
    assert needed_weights(point, w).tolist() == [0.0, 0.0]


def test_a_group_looks_at_the_weights_that_its_nearest_sample_needs() -> None:
    box, w = Box(torch.zeros(1, 3), torch.ones(1, 3)), torch.tensor([[-4.0, 2.5, 0.5], [0.0, 0.0, 0.0]])
    x = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.25]])
    y = lp_dist(x, w, math.inf)  # 5, 1 and 4, 0 and 4.5, 0.5; the most that terms can be: 5, 2.5, 0.5 and 1, 1, 1
    assert visited_weights(y, w, box, 1).tolist() == pytest.approx([0, 4 / 6, 4 / 6])
    assert visited_weights(y, w, box, 2).tolist() == pytest.approx([4 / 6, 4 / 6])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), together=st.integers(1, 5))
def test_the_weights_that_are_looked_at_give_the_distance(seed: int, together: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.rand(10, 30, generator=generator), 3 * torch.randn(1, 30, generator=generator)
    box = Box(torch.zeros(1, 30), torch.ones(1, 30))
    y, terms = lp_dist(x, w, math.inf), torch.cat([x - w, w - x], 1)
    order = torch.cat([1 - w, w], 1)[0].argsort(descending=True)
    for group, some, share in zip(
        y.split(together), terms.split(together), visited_weights(y, w, box, together), strict=True
    ):
        count = max(1, round(share.item() * 30))
        assert torch.equal(some[:, order[:count]].amax(1), group[:, 0])


@pytest.mark.parametrize("p", [8, 64, 1000])
def test_terms_count_down_to_the_threshold_and_no_further(p: float) -> None:
    ratio = 2 ** (-24 / p)
    w = torch.tensor([[1.0, ratio + (1 - ratio) / 2, 0.999 * ratio, 0.0]], dtype=torch.float64)
    x = torch.zeros(1, 4, dtype=torch.float64)
    assert counting_terms(x, w, p).tolist() == [0.5]
    assert needed_weights(Box(x, x), w, p).tolist() == [0.5]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), p=st.sampled_from([2.0, 8.0, 64.0, 1000.0]), features=st.integers(1, 300))
def test_skipping_terms_that_do_not_count_changes_no_bit(seed: int, p: float, features: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.randn(features, generator=generator), 3 * torch.randn(20, features, generator=generator)
    whole = power_sums(x, w, p)
    assert torch.equal(power_sums(x, w, p, 2.0**-24), whole)
    largest = lp_dist(x[None], w, math.inf)[0]
    torch.testing.assert_close(largest * whole ** (1 / p), lp_dist(x[None], w, p)[0], rtol=1e-4, atol=0)


def test_skipping_a_little_more_does_change_the_sum() -> None:
    x, w = torch.zeros(2), torch.tensor([[1.0, 2.0**-11]])
    assert power_sums(x, w, 2, 2.0**-24) == 1 + 2.0**-22 > power_sums(x, w, 2, 2.0**-21)
