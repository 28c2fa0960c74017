"""One recipe: what its fields may be, and how some are replaced."""

import inspect
import json
import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from lib.recipes import Recipe, load, names


@pytest.fixture
def plain() -> Recipe:
    return load("mnist/linf-dist-net", "paper")


@pytest.fixture
def clipped() -> Recipe:
    return load("mnist/linf-dist-net-v2", "paper")


@pytest.fixture
def composite() -> Recipe:
    return load("mnist/linf-dist-net-mlp", "paper")


def test_numbers_of_other_libraries_become_plain_ones(plain: Recipe) -> None:
    replaced = plain.replace(lr=np.float32(0.25), theta=Fraction(1, 4), width=np.int64(64), mean=[np.float32(0.5)])
    assert replaced == plain.replace(lr=0.25, theta=0.25, width=64, mean=[0.5])
    assert json.loads(json.dumps(replaced.as_dict()))["width"] == 64
    quarter, half = torch.tensor(0.25), torch.tensor(0.5)
    assert plain.replace(lr=quarter, theta=np.array(0.25), width=torch.tensor(64), mean=[half]) == replaced


@pytest.mark.parametrize(
    ("model", "loss", "expected"),
    [("linf-dist-net", "ibp", "'hinge' or 'clipped-hinge'"), ("linf-dist-net-mlp", "hinge", "'ibp'")],
)
def test_the_losses_of_a_model_are_named(model: str, loss: str, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^loss is '{loss}', expected {expected} for model {model}$"):
        load(f"digits/{model}", "smoke").replace(loss=loss)


@pytest.mark.parametrize("field", ["theta", "hinge_mix", "logit_scale_lr"])
@pytest.mark.parametrize("word", ["none", "None"])
def test_the_word_none_is_none_where_a_field_may_be(composite: Recipe, plain: Recipe, field: str, word: str) -> None:
    assert composite.replace(**{field: word}) == composite
    with pytest.raises(TypeError, match=f"^eps_test is '{word}', expected float$"):
        plain.replace(eps_test=word)
    assert plain.replace(decay="none", weight_decay=0.0).decay == "none"


def test_the_help_explains_every_field() -> None:
    # of a docstring, Python 3.13 keeps no indentation
    lines = re.findall(r"^ {4}([\w, ]+): ", inspect.getdoc(Recipe) or "", re.M)
    explained = {name for line in lines for name in line.split(", ")}
    assert explained - {"ValueError", "TypeError"} == set(Recipe.__dataclass_fields__)


class TestBadValues:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("width", True),
            ("width", "64"),
            ("width", 64.0),
            ("flip", 1),
            ("lr", "fast"),
            ("lr", None),
            ("lr", False),
            ("mean", 0.1307),
            ("mean", ["0.1"]),
            ("input_shape", [28, 28]),
            ("theta", True),
        ],
    )
    def test_wrong_type_is_refused_by_name(self, plain: Recipe, field: str, value: object) -> None:
        with pytest.raises(TypeError, match=rf"^{field}.* is .*, expected "):
            plain.replace(**{field: value})

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("dataset", "mnits"),
            ("model", "mlp"),
            ("loss", "mse"),
            ("decay", ["lp"]),
            ("name", "../elsewhere"),
            ("name", "a//b"),
            ("classes", 1),
            ("std", 0.0),
            ("std", 1e-40),
            ("std", 1e31),
            ("input_shape", (1, 0, 28)),
            ("mean", (0.1, 0.1)),
            ("mean", ()),
            ("mean", (1.5,)),
            ("width", 0),
            ("depth", 0),
            ("identity", -10.0),
            ("theta", 0.0),
            ("theta", "8/0"),
            ("theta", None),
            ("theta", 2.0),
            ("hinge_mix", 1.5),
            ("hinge_mix", None),
            ("lr", 0),
            ("lr", math.inf),
            ("lr", 10**400),
            ("beta1", 1.0),
            ("beta2", math.nan),
            ("adam_eps", 0.0),
            ("weight_decay", -1.0),
            ("batch_size", 0),
            ("p_start", 0.5),
            ("p_end", 4),
            ("p_end", math.inf),
            ("p_ladder", True),
            ("epochs_ramp", -1),
            ("crop_padding", 28),
            ("crop_padding", -1),
            ("train_limit", -1),
            ("test_limit", -1),
            ("eps_test", 0.0),
            ("eps_test", 1.0),
            ("eps_test", "nan"),
            ("pgd_steps", 0),
            ("pgd_steps", 2**63),
            ("train_limit", -(2**63)),
            ("eps_train", 0.35),
            ("kappa_natural", 0.5),
            ("hidden", 512),
            ("eps_warmup_epochs", 5),
            ("ce_weight_start", 0.05),
            ("logit_scale_lr", 0.006),
        ],
    )
    def test_out_of_range_is_refused_by_name_and_value(self, plain: Recipe, field: str, value: object) -> None:
        with pytest.raises(ValueError, match=rf"^{field}.* (is|are) .*expected "):
            plain.replace(**{field: value})

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("hidden", 0),
            ("eps_train", None),
            ("eps_train", "300/255"),
            ("kappa_natural", None),
            ("kappa_natural", -0.1),
            ("theta", 0.9),
            ("hinge_mix", 0.75),
            ("eps_warmup_epochs", 401),
            ("loss", "hinge"),
        ],
    )
    def test_composite_net_needs_the_fields_of_its_loss(self, composite: Recipe, field: str, value: object) -> None:
        with pytest.raises(ValueError, match=rf"^{field} is .*expected "):
            composite.replace(**{field: value})

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("theta", None),
            ("ce_weight_start", None),
            ("ce_weight_start", 0.0),
            ("ce_weight_end", -1e-4),
            ("logit_scale_lr", None),
            ("logit_scale_decay", -0.1),
            ("hinge_mix", 0.75),
            ("eps_train", 0.35),
            ("loss", "ibp"),
            ("eps_warmup_epochs", 1),
            ("keep_prob", 0.75),
            ("hidden", 64),
        ],
    )
    def test_the_clipped_hinge_needs_its_own_fields_alone(self, clipped: Recipe, field: str, value: object) -> None:
        with pytest.raises(ValueError, match=rf"^{field} is .*expected "):
            clipped.replace(**{field: value})

    @pytest.mark.parametrize("q", [None, 0.0, 1.5])
    def test_sortnet_needs_a_probability(self, q: float | None) -> None:
        with pytest.raises(ValueError, match=rf"^keep_prob is {q}, expected "):
            load("mnist/sortnet", "paper").replace(keep_prob=q)

    def test_convolutional_net_has_six_distance_layers(self, composite: Recipe) -> None:
        with pytest.raises(ValueError, match="depth is 4, expected 6"):
            composite.replace(model="conv-linf-dist-net-mlp")

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"depth": 6}, r"depth is 6, expected 4 or 7 \(two or five convolutions\) for relu-net"),
            ({"identity": 10.0}, "identity is 10.0, expected 0 for relu-net, which measures no distances"),
            ({"epochs_const": 1}, "epochs_const is 1, expected 0 for relu-net, which measures no distances"),
            ({"epochs_ramp": 1}, "epochs_ramp is 1, expected 0 for relu-net, which measures no distances"),
            ({"p_end": 8.0}, "p_end is 8.0, expected 1 for relu-net, which measures no distances"),
            ({"p_ladder": True}, "p_ladder is True, expected False for relu-net, which measures no distances"),
            ({"cosine_from_start": True}, "cosine_from_start is True, expected False for relu-net, .*"),
            (
                {"input_shape": (1, 3, 28), "depth": 4},
                r"input_shape is \(1, 3, 28\), expected sides of at least 4 for a relu-net",
            ),
            (
                {"decay": "lp", "weight_decay": 0.1},
                "decay is 'lp', expected 'l2' or 'none' for relu-net, which measures no distances",
            ),
            ({"hidden": 0}, "hidden is 0, expected at least 1 for model relu-net"),
            ({"loss": "hinge"}, "loss is 'hinge', expected 'ibp' for model relu-net"),
        ],
    )
    def test_a_net_without_distances_has_nothing_that_they_need(self, changes: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            load("mnist/ibp", "paper").replace(**changes)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"decay": "none"}, "weight_decay is 0.005, expected 0 for decay 'none'"),
            ({"weight_decay": 0.0}, "weight_decay is 0.0, expected more than 0 for decay 'lp'"),
            ({"decay": "l2", "weight_decay": 0.0}, "weight_decay is 0.0, expected more than 0 for decay 'l2'"),
        ],
    )
    def test_a_decay_has_a_strength_and_a_strength_a_decay(
        self, changes: dict[str, Any], sentence: str, plain: Recipe
    ) -> None:
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            plain.replace(**changes)

    def test_a_run_has_at_least_one_epoch(self, plain: Recipe) -> None:
        with pytest.raises(ValueError, match="expected at least one epoch"):
            plain.replace(epochs_const=0, epochs_ramp=0, epochs_inf=0)

    def test_unknown_override_is_refused_with_the_nearest_field(self, plain: Recipe) -> None:
        with pytest.raises(ValueError, match=r"unknown recipe field 'eps', did you mean 'eps_test'\?"):
            load("mnist/linf-dist-net", "smoke").replace(eps=0.1)
        with pytest.raises(ValueError, match=r"unknown recipe field 'widht', did you mean 'width'\?"):
            plain.replace(widht=64)

    def test_unknown_override_without_a_near_field_is_refused_with_all(self, plain: Recipe) -> None:
        with pytest.raises(ValueError, match=r"unknown recipe field 'zzz', expected one of name, dataset, .*pgd_steps"):
            plain.replace(zzz=1)


class TestOverrides:
    def test_fractions_whole_numbers_and_lists_become_the_type_of_the_field(self, plain: Recipe) -> None:
        recipe = plain.replace(eps_test="8/255", theta="80/255", p_end=1024, mean=[0.5])
        assert (recipe.eps_test, recipe.theta, recipe.mean) == (8 / 255, 80 / 255, (0.5,))
        assert type(recipe.p_end) is float

    def test_the_original_is_untouched(self, plain: Recipe) -> None:
        assert plain.replace(width=64).width == 64
        assert plain.width == 5120

    @pytest.mark.parametrize("name", names())
    def test_dict_goes_through_json_and_back(self, name: str) -> None:
        recipe = load(name, "paper")
        assert Recipe(**json.loads(json.dumps(recipe.as_dict()))) == recipe
