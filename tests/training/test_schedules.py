import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lib import recipes
from lib.training.schedules import Knobs, ce_weight_at, eps_at, knobs_at, lr_at, p_at

PLAIN = recipes.load("mnist/linf-dist-net", "paper")
HEAD = recipes.load("mnist/linf-dist-net-mlp", "paper")
CLIPPED = recipes.load("mnist/linf-dist-net-v2", "paper")
LADDER = PLAIN.replace(p_end=1024.0, p_ladder=True)

progresses = st.floats(0, 500)
phases = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))


def with_phases(recipe, const, ramp, inf):
    return recipe.replace(epochs_const=const, epochs_ramp=ramp, epochs_inf=inf, eps_warmup_epochs=0)


class TestExponent:
    @pytest.mark.parametrize(("share", "p"), [(0.25, 26.7), (0.5, 89.4), (0.75, 299)])
    def test_checkpoints_of_the_ramp(self, share, p):
        assert p_at(PLAIN, 50 + share * 300) == pytest.approx(p, rel=2e-3)

    def test_it_starts_at_8_and_is_infinite_as_soon_as_the_ramp_is_over(self):
        assert p_at(PLAIN, 0) == p_at(PLAIN, 50) == 8
        assert p_at(PLAIN, 350 - 1e-9) == pytest.approx(1000)
        assert p_at(PLAIN, 350) == p_at(PLAIN, 400) == math.inf

    def test_the_ladder_gives_every_power_of_two_an_equal_share(self):
        seen = [p_at(LADDER, 50 + (rung + at) * 300 / 8) for rung in range(8) for at in (0.001, 0.999)]
        assert (
            seen
            == [8.0, 8.0, 16.0, 16.0, 32.0, 32.0, 64.0, 64.0, 128.0, 128.0, 256.0, 256.0, 512.0, 512.0] + [1024.0] * 2
        )
        assert p_at(LADDER, 49.9) == 8
        assert p_at(LADDER, 350) == math.inf

    def test_a_ladder_of_one_rung_and_a_ramp_of_equal_ends_stay_there(self):
        assert p_at(PLAIN.replace(p_end=8.0, p_ladder=True), 349) == 8
        assert p_at(PLAIN.replace(p_end=8.0), 349) == 8

    @given(first=progresses, second=progresses, recipe=st.sampled_from([PLAIN, LADDER]))
    def test_it_never_falls_and_stays_between_its_ends(self, first, second, recipe):
        early, late = sorted([first, second])
        assert 8 <= p_at(recipe, early) <= p_at(recipe, late)
        assert p_at(recipe, late) <= recipe.p_end * (1 + 1e-12) or p_at(recipe, late) == math.inf

    def test_phases_of_no_length(self):
        assert p_at(with_phases(PLAIN, 0, 2, 0), 0) == 8
        assert p_at(with_phases(PLAIN, 0, 2, 0), 1) == pytest.approx(math.sqrt(8 * 1000))
        assert p_at(with_phases(PLAIN, 1, 0, 1), 0.99) == 8
        assert p_at(with_phases(PLAIN, 1, 0, 1), 1) == math.inf
        assert p_at(with_phases(PLAIN, 0, 0, 1), 0) == math.inf


class TestLearningRate:
    def test_it_is_constant_then_a_cosine_to_zero(self):
        assert lr_at(PLAIN, 0) == lr_at(PLAIN, 50) == 0.02
        assert lr_at(PLAIN, 50 + 350 / 2) == pytest.approx(0.01)
        assert lr_at(PLAIN, 50 + 350 / 3) == pytest.approx(0.02 * 0.75)
        assert lr_at(PLAIN, 400) == lr_at(PLAIN, 401) == 0

    @given(first=progresses, second=progresses)
    def test_it_never_rises(self, first, second):
        early, late = sorted([first, second])
        assert 0 <= lr_at(PLAIN, late) <= lr_at(PLAIN, early) <= 0.02

    def test_a_cosine_from_the_start_has_no_constant_part(self):
        assert lr_at(CLIPPED, 0) == 0.03
        assert lr_at(CLIPPED, 150) == pytest.approx(0.03 * 0.75)
        assert lr_at(CLIPPED, 225) == pytest.approx(0.015)
        assert lr_at(CLIPPED, 450) == 0

    def test_without_an_ending_it_stays(self):
        assert lr_at(with_phases(PLAIN, 2, 0, 0), 1.5) == 0.02
        assert lr_at(with_phases(PLAIN, 2, 0, 0), 2) == 0.02


class TestRadius:
    def test_it_grows_linearly_over_the_warm_up_and_stays(self):
        assert HEAD.eps_warmup_epochs == 50
        assert [eps_at(HEAD, epochs) for epochs in (0, 25, 50, 399)] == pytest.approx([0, 0.175, 0.35, 0.35])

    @given(first=progresses, second=progresses)
    def test_it_never_falls(self, first, second):
        early, late = sorted([first, second])
        assert 0 <= eps_at(HEAD, early) <= eps_at(HEAD, late) <= 0.35

    def test_without_warm_up_it_is_there_at_once(self):
        assert eps_at(HEAD.replace(eps_warmup_epochs=0), 0) == 0.35

    def test_the_hinge_has_no_box(self):
        assert eps_at(PLAIN, 10) == 0
        assert knobs_at(PLAIN, 10).kappa == 1


class TestWeightOfTheCrossEntropy:
    def test_it_falls_geometrically_along_the_ramp_of_p(self):
        assert ce_weight_at(CLIPPED, 0) == ce_weight_at(CLIPPED, 25) == 0.05
        assert ce_weight_at(CLIPPED, 25 + 375 / 2) == pytest.approx(math.sqrt(0.05 * 2e-4))
        assert ce_weight_at(CLIPPED, 400) == ce_weight_at(CLIPPED, 450) == 2e-4

    def test_without_a_ramp_it_is_at_its_end_at_once(self):
        assert ce_weight_at(with_phases(CLIPPED, 1, 0, 1), 1.5) == 2e-4

    def test_the_other_losses_have_none(self):
        assert ce_weight_at(PLAIN, 10) == ce_weight_at(HEAD, 10) == 0


class TestKnobs:
    @given(progress=progresses)
    def test_they_are_the_five_schedules(self, progress):
        p, lr, eps = p_at(HEAD, progress), lr_at(HEAD, progress), eps_at(HEAD, progress)
        assert knobs_at(HEAD, progress) == Knobs(p=p, lr=lr, eps=eps, kappa=0.5, ce_weight=0)
        assert knobs_at(CLIPPED, progress).ce_weight == ce_weight_at(CLIPPED, progress)

    @given(phases=phases, share=st.floats(0, 1), recipe=st.sampled_from([PLAIN, LADDER, HEAD, CLIPPED]))
    def test_they_are_in_range_for_phases_of_any_length(self, phases, share, recipe):
        assume(sum(phases) > 0)
        recipe = with_phases(recipe, *phases)
        knobs = knobs_at(recipe, share * recipe.epochs)
        assert knobs.p >= 8
        assert 0 <= knobs.lr <= recipe.lr

    @pytest.mark.parametrize("progress", [-0.1, math.nan, math.inf])
    def test_progress_that_is_none_is_refused(self, progress):
        with pytest.raises(ValueError, match=f"progress is {progress}"):
            knobs_at(PLAIN, progress)
