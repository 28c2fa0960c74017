import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.experiments.published import published_row
from lib.recipes import BUDGETS, FOLDER, Recipe, load, names, parse_eps

NEVER_PUBLISHED = {
    *("tiny-imagenet/linf-dist-net", "tiny-imagenet/linf-dist-net-v2", "tiny-imagenet/sortnet"),
    *("fashion-mnist/linf-dist-net-v2", "fashion-mnist/sortnet"),
}


@pytest.fixture
def plain() -> Recipe:
    return load("mnist/linf-dist-net", "paper")


@pytest.fixture
def clipped() -> Recipe:
    return load("mnist/linf-dist-net-v2", "paper")


@pytest.fixture
def composite() -> Recipe:
    return load("mnist/linf-dist-net-mlp", "paper")


class TestShippedRecipes:
    @pytest.mark.parametrize("budget", BUDGETS)
    @pytest.mark.parametrize("name", names())
    def test_each_loads_at_every_budget(self, name: str, budget: str) -> None:
        recipe = load(name, budget)
        assert recipe.name == name
        assert name.startswith(f"{recipe.dataset}/")

    @pytest.mark.parametrize("name", names())
    def test_gpu_has_the_widths_of_the_paper(self, name: str) -> None:
        gpu, paper = load(name, "gpu"), load(name, "paper")
        assert gpu.flops == paper.flops
        assert gpu.epochs < paper.epochs

    @pytest.mark.parametrize("name", names())
    def test_the_printed_row_is_found_at_the_radius_of_the_recipe(self, name: str) -> None:
        found = published_row(name, load(name, "paper").eps_test)
        unpublished = name.startswith("digits/") or name.endswith("-released") or name in NEVER_PUBLISHED
        assert (found is None) == unpublished


@pytest.mark.parametrize("data", ["digits", "mnist", "fashion-mnist", "cifar10", "tiny-imagenet"])
def test_every_data_set_has_the_four_kinds_of_training(data: str) -> None:
    kinds = ("linf-dist-net", "linf-dist-net-mlp", "linf-dist-net-v2", "sortnet")
    assert {f"{data}/{kind}" for kind in kinds} <= set(names())


class TestParseEps:
    def test_fraction_is_the_nearest_float(self) -> None:
        assert parse_eps("8/255") == 8 / 255
        assert parse_eps(" 8.8 / 255 ") == 8.8 / 255

    @given(st.floats(0, 1, exclude_min=True, exclude_max=True))
    def test_numbers_and_their_texts_agree(self, eps: float) -> None:
        assert parse_eps(eps) == parse_eps(repr(eps)) == eps

    @given(st.integers(1, 254))
    def test_pixel_steps_are_radii(self, step: int) -> None:
        assert parse_eps(f"{step}/255") == step / 255

    @pytest.mark.parametrize("eps", [0, 0.0, -0.1, 1, 1.0, 255, math.nan, math.inf, "8", "nan", "-1/255", "255/255"])
    def test_outside_the_open_unit_interval_is_refused(self, eps: float | str) -> None:
        with pytest.raises(ValueError, match=r"eps is .*, expected a radius in pixel units with 0 < eps < 1"):
            parse_eps(eps)

    @pytest.mark.parametrize("eps", [Fraction(1, 4), np.float32(0.25), np.float64(0.25), "1/4"])
    def test_any_real_number_is_a_radius(self, eps: Any) -> None:
        assert type(parse_eps(eps)) is float
        assert parse_eps(eps) == 0.25

    @pytest.mark.parametrize("eps", ["", "eight", "8/0", "1/2/3", "/", "-8/-255", "1_0/255", True, None, [0.3]])
    def test_what_is_no_number_is_refused_by_name(self, eps: Any) -> None:
        with pytest.raises(ValueError, match=r"radius is .*, expected a number or a fraction"):
            parse_eps(eps, "radius")

    @given(st.text())
    def test_any_text_is_a_radius_or_one_sentence(self, text: str) -> None:
        outcome: float | str
        try:
            outcome = parse_eps(text)
        except ValueError as error:
            outcome = str(error)
        assert 0 < outcome < 1 if isinstance(outcome, float) else outcome.startswith("eps is ")


def test_numbers_of_other_libraries_become_plain_ones(plain: Recipe) -> None:
    replaced = plain.replace(lr=np.float32(0.25), theta=Fraction(1, 4), width=np.int64(64), mean=[np.float32(0.5)])
    assert replaced == plain.replace(lr=0.25, theta=0.25, width=64, mean=[0.5])
    assert json.loads(json.dumps(replaced.as_dict()))["width"] == 64


@pytest.mark.parametrize(
    ("model", "loss", "expected"),
    [("linf-dist-net", "ibp", "'hinge' or 'clipped-hinge'"), ("linf-dist-net-mlp", "hinge", "'ibp'")],
)
def test_the_losses_of_a_model_are_named(model: str, loss: str, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^loss is '{loss}', expected {expected} for model {model}$"):
        load(f"digits/{model}", "smoke").replace(loss=loss)


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


class TestLoad:
    @pytest.fixture
    def text(self) -> str:
        return (FOLDER / "digits/linf-dist-net.toml").read_text()

    def write(self, folder: Path, text: str) -> Path:
        path = folder / "mine.toml"
        path.write_text(text)
        return path

    def test_a_path_is_a_recipe_named_after_its_file(self, tmp_path: Path, text: str) -> None:
        path = self.write(tmp_path, text)
        assert (
            load(path, "smoke")
            == load(str(path), "smoke")
            == load("digits/linf-dist-net", "smoke").replace(name="mine")
        )

    def test_the_path_of_a_shipped_recipe_keeps_its_name(self) -> None:
        assert load(FOLDER / "digits/linf-dist-net.toml", "smoke") == load("digits/linf-dist-net", "smoke")

    def test_unknown_recipe_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(
            ValueError, match=r"unknown recipe 'mnist/linf-dist-nte', did you mean 'mnist/linf-dist-net'\?"
        ):
            load("mnist/linf-dist-nte")

    def test_unknown_budget_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(ValueError, match=r"unknown budget 'quik', did you mean 'quick'\?"):
            load("mnist/linf-dist-net", "quik")

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"recipe file .*none.toml does not exist"):
            load(tmp_path / "none.toml")

    def test_unknown_key_is_refused_with_the_nearest(self, tmp_path: Path, text: str) -> None:
        path = self.write(tmp_path, text.replace("\nstd =", "\nstdd ="))
        with pytest.raises(ValueError, match=r"unknown key in .*mine.toml 'stdd', did you mean 'std'\?"):
            load(path)

    def test_unknown_key_of_a_budget_is_refused(self, tmp_path: Path, text: str) -> None:
        path = self.write(tmp_path, text.replace("[budget.smoke]", "[budget.smoke]\nheight = 3"))
        for budget in BUDGETS:
            with pytest.raises(ValueError, match=r"unknown key in .*'height'"):
                load(path, budget)

    @pytest.mark.parametrize("where", ["", "[budget.smoke]"])
    def test_a_name_is_the_files_and_no_key(self, tmp_path: Path, text: str, where: str) -> None:
        mine = text.replace("[budget.smoke]", "[budget.smoke]\nname = 'x'") if where else f"name = 'x'\n{text}"
        with pytest.raises(ValueError, match=r"unknown key in .*'name'"):
            load(self.write(tmp_path, mine))

    def test_a_budget_that_is_no_table_is_refused(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, 'base = "digits/linf-dist-net"\nbudget.smoke = 3\n')
        with pytest.raises(ValueError, match=r"has not one table \[budget.X\]"):
            load(path)

    def test_missing_key_is_refused(self, tmp_path: Path, text: str) -> None:
        path = self.write(tmp_path, text.replace("lr = 0.02\n", ""))
        with pytest.raises(ValueError, match=r"mine.toml lacks lr at budget quick"):
            load(path)

    def test_bad_value_is_refused_with_file_and_budget(self, tmp_path: Path, text: str) -> None:
        path = self.write(tmp_path, text.replace("eps_test = 0.1", "eps_test = 1.5"))
        with pytest.raises(ValueError, match=r"mine.toml, budget quick: eps_test is 1.5, expected"):
            load(path)

    def test_a_base_lends_what_the_file_does_not_say(self, tmp_path: Path) -> None:
        text = 'base = "digits/linf-dist-net"\nwidth = 7\nlr = 0.5\n[budget.smoke]\nlr = 0.25\n'
        path, shipped = self.write(tmp_path, text), load("digits/linf-dist-net", "smoke")
        # the file's own width goes before the width that the base has at this budget
        assert load(path, "smoke") == shipped.replace(name="mine", width=7, lr=0.25)
        assert load(path, "quick").lr == 0.5

    def test_an_unknown_base_is_refused_with_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"unknown base in .*mine.toml 'digits/linf-dist-nte', did you mean"):
            load(self.write(tmp_path, 'base = "digits/linf-dist-nte"\n'))

    def test_an_unknown_budget_beside_a_base_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has not one table"):
            load(self.write(tmp_path, 'base = "digits/linf-dist-net"\n[budget.smok]\n'))

    @pytest.mark.parametrize("name", ["[budget.smok]", "[other.smoke]"])
    def test_missing_budget_is_refused(self, tmp_path: Path, text: str, name: str) -> None:
        path = self.write(tmp_path, text.replace("[budget.smoke]", name))
        with pytest.raises(ValueError, match="has not one table"):
            load(path)

    def test_what_is_no_toml_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"mine.toml is no TOML file"):
            load(self.write(tmp_path, "lr = = 3"))
