"""The shipped recipes against the paper: Table 6 to the digit, the rows of Tables 3 and 7, what each budget keeps."""

from typing import Any

import pytest

from lib.experiments.published import published_row
from lib.recipes import BUDGETS, Recipe, load, names

UNUSED = {  # by the other losses and nets
    "hidden": 0,
    "keep_prob": None,
    "theta": None,
    "hinge_mix": None,
    "eps_train": None,
    "kappa_natural": None,
    "eps_warmup_epochs": 0,
    "ce_weight_start": None,
    "ce_weight_end": None,
    "logit_scale_lr": None,
    "logit_scale_decay": None,
    "cosine_from_start": False,
    "crop_edge": False,
}
COMMON = UNUSED | {
    "beta1": 0.9,
    "beta2": 0.99,
    "adam_eps": 1e-10,
    "batch_size": 512,
    "lr": 0.02,
    "weight_decay": 0.005,
    "decay": "lp",
    "identity": 10.0,
    "p_start": 8.0,
    "p_end": 1000.0,
    "p_ladder": False,
    "train_limit": 0,
    "test_limit": 0,
    "validation": False,
    "pgd_steps": 20,
}


def phases(const: int, ramp: int, inf: int) -> dict[str, int]:
    return {"epochs_const": const, "epochs_ramp": ramp, "epochs_inf": inf}


def data(name: str, shape: tuple[int, ...], mean: tuple[float, ...], std: float, eps: float) -> dict[str, Any]:
    classes = 200 if name == "tiny-imagenet" else 10
    images = {"dataset": name, "input_shape": shape, "classes": classes, "mean": mean, "std": std}
    return images | {"eps_test": eps, "flip": shape[0] == 3}


DIGITS = data("mnist", (1, 28, 28), (0.1307,), 0.3081, 0.3)
CLOTHES = data("fashion-mnist", (1, 28, 28), (0.286,), 0.352, 0.1)
PHOTOS = data("cifar10", (3, 32, 32), (0.4914, 0.4822, 0.4465), 0.2009, 8 / 255)
MINIATURES = data("tiny-imagenet", (3, 56, 56), (0.4802, 0.4481, 0.3975), 0.2276, 1 / 255)
GREY = COMMON | phases(50, 300, 50) | {"crop_padding": 1, "width": 5120}
MNIST, FASHION = GREY | DIGITS, GREY | CLOTHES
CIFAR = COMMON | phases(100, 650, 50) | PHOTOS | {"crop_padding": 4, "width": 5120}
IMAGENET = COMMON | phases(100, 350, 50) | MINIATURES | {"crop_padding": 0, "width": 5120, "lr": 0.04}


def hinge(theta: float, mix: float) -> dict[str, Any]:
    return {"model": "linf-dist-net", "loss": "hinge", "theta": theta, "hinge_mix": mix}


def ibp(eps_train: float, kappa: float, warmup: int) -> dict[str, Any]:
    head = {"model": "linf-dist-net-mlp", "loss": "ibp", "hidden": 512}
    return head | {"eps_train": eps_train, "kappa_natural": kappa, "eps_warmup_epochs": warmup}


TABLE_6 = {
    "mnist/linf-dist-net": MNIST | hinge(0.9, 0.75) | {"depth": 5},
    "mnist/linf-dist-net-mlp": MNIST | ibp(0.35, 0.5, 50) | {"depth": 4},
    "fashion-mnist/linf-dist-net": FASHION | hinge(0.45, 1.0) | {"depth": 5},
    "fashion-mnist/linf-dist-net-mlp": FASHION | ibp(0.11, 0.5, 50) | {"depth": 4},
    "cifar10/linf-dist-net": CIFAR | hinge(80 / 255, 0.75) | {"depth": 6},
    "cifar10/linf-dist-net-mlp": CIFAR | ibp(8.8 / 255, 0.0, 100) | {"depth": 5},
    "cifar10/conv-linf-dist-net-mlp": CIFAR
    | ibp(8.8 / 255, 0.0, 100)
    | {"model": "conv-linf-dist-net-mlp", "width": 128, "depth": 6},
    "tiny-imagenet/linf-dist-net-mlp": IMAGENET | ibp(0.005, 0.0, 100) | {"depth": 5},
}
PUBLISHED_FLOPS = {
    "mnist/linf-dist-net": 82_708_480,
    "mnist/linf-dist-net-mlp": 85_283_840,
    "mnist/linf-dist-net-mlp-released": 83_970_560,
    "fashion-mnist/linf-dist-net": 82_708_480,
    "fashion-mnist/linf-dist-net-mlp": 85_283_840,
    "cifar10/linf-dist-net": 120_637_440,
    "cifar10/linf-dist-net-mlp": 123_212_800,
    "cifar10/conv-linf-dist-net-mlp": 565_842_944,
    "tiny-imagenet/linf-dist-net-mlp": 155_750_400,
    "mnist/ibp": 114_456_576,
    "fashion-mnist/ibp": 114_456_576,
    "cifar10/ibp": 150_672_384,
}
IMAGES = {"digits": 1437, "mnist": 60000, "fashion-mnist": 60000, "cifar10": 50000, "tiny-imagenet": 100000}
ABLATION = {  # smoothed gradient, identity map, decay, its strength
    "a": (False, 0.0, "none", 0.0),
    "b": (True, 0.0, "none", 0.0),
    "c": (True, 10.0, "none", 0.0),
    "d": (True, 10.0, "l2", 0.005),
    "e": (True, 10.0, "lp", 0.005),
}

ICLR_2022 = COMMON | {
    "model": "linf-dist-net",
    "loss": "clipped-hinge",
    "logit_scale_lr": 0.006,
    "logit_scale_decay": 0.0,
    "lr": 0.03,
    "cosine_from_start": True,
    "weight_decay": 0.0,
    "decay": "none",
    "width": 5120,
    "crop_edge": True,
    "pgd_steps": 100,
}
NEURIPS_2022 = ICLR_2022 | {"model": "sortnet", "lr": 0.02, "logit_scale_lr": 0.02, "logit_scale_decay": 0.02}
FOLLOW_UPS = {
    "mnist/linf-dist-net-v2": ICLR_2022
    | (DIGITS | phases(25, 375, 50))
    | {"depth": 5, "theta": 0.9, "ce_weight_start": 0.05, "ce_weight_end": 2e-4, "crop_padding": 1},
    "cifar10/linf-dist-net-v2": ICLR_2022
    | (PHOTOS | phases(100, 1150, 50))
    | {"depth": 6, "theta": 48 / 255, "ce_weight_start": 0.1, "ce_weight_end": 5e-4, "crop_padding": 3},
    "mnist/sortnet": NEURIPS_2022
    | (DIGITS | phases(100, 1350, 50))
    | {"depth": 5, "theta": 0.9, "ce_weight_start": 0.02, "ce_weight_end": 2e-4, "crop_padding": 1, "keep_prob": 0.75},
    "cifar10/sortnet": NEURIPS_2022
    | (PHOTOS | phases(200, 2750, 50))
    | {"depth": 6, "theta": 48 / 255, "ce_weight_start": 0.2, "ce_weight_end": 2e-3, "crop_padding": 3}
    | {"keep_prob": 0.85, "identity": 0.0},
}
NEVER_PUBLISHED = {
    *("tiny-imagenet/linf-dist-net", "tiny-imagenet/linf-dist-net-v2", "tiny-imagenet/sortnet"),
    *("fashion-mnist/linf-dist-net-v2", "fashion-mnist/sortnet"),
}


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


@pytest.mark.parametrize("name", FOLLOW_UPS)
def test_the_paper_budget_of_a_follow_up_is_its_own_to_the_digit(name: str) -> None:
    assert load(name, "paper").as_dict() == {"name": name} | FOLLOW_UPS[name]


@pytest.mark.parametrize("name", TABLE_6)
def test_the_paper_budget_is_table_6_to_the_digit(name: str) -> None:
    assert load(name, "paper").as_dict() == {"name": name} | TABLE_6[name]


@pytest.mark.parametrize("name", PUBLISHED_FLOPS)
def test_flops_follow_from_the_recipe(name: str) -> None:
    assert load(name, "paper").flops == load(name, "gpu").flops == PUBLISHED_FLOPS[name]


def differing(one: Recipe, other: Recipe) -> set[str]:
    theirs = other.as_dict()
    return {name for name, value in one.as_dict().items() if value != theirs[name]} - {"name"}


class TestAblation:
    @pytest.mark.parametrize(("data", "net"), [("cifar10", ""), ("cifar10", "-mlp"), ("digits", "")])
    @pytest.mark.parametrize("row", ABLATION)
    @pytest.mark.parametrize("budget", BUDGETS)
    def test_a_row_differs_from_the_whole_method_by_what_table_3_says(
        self, budget: str, row: str, data: str, net: str
    ) -> None:
        recipe, whole = load(f"{data}/ablation-{row}{net}", budget), load(f"{data}/linf-dist-net{net}", budget)
        smoothed, identity, decay, strength = ABLATION[row]
        assert (recipe.epochs_const + recipe.epochs_ramp > 0) == smoothed
        assert (recipe.identity, recipe.decay, recipe.weight_decay) == (identity, decay, strength)
        assert recipe.epochs == whole.epochs
        phases = {"epochs_const", "epochs_ramp", "epochs_inf"}
        assert differing(recipe, whole) <= {"identity", "decay", "weight_decay"} | (set() if smoothed else phases)


class TestDepth:
    @pytest.mark.parametrize("layers", range(5, 11))
    @pytest.mark.parametrize("budget", BUDGETS)
    def test_a_row_has_its_layers_and_the_two_columns_differ_by_the_start_alone(self, budget: str, layers: int) -> None:
        identity, gauss = (load(f"cifar10/depth-{layers}-{start}", budget) for start in ("identity", "gauss"))
        assert identity.depth == gauss.depth == layers
        assert differing(identity, gauss) == {"identity"}
        assert (identity.identity, gauss.identity) == (10.0, 0.0)
        assert differing(identity, load("cifar10/depth-5-identity", budget)) <= {"depth"}

    def test_six_layers_from_the_identity_are_the_plain_net_of_table_1(self) -> None:
        assert not differing(load("cifar10/depth-6-identity", "paper"), load("cifar10/linf-dist-net", "paper"))


class TestReleasedCode:
    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("mnist/linf-dist-net-mlp", {"hidden": 256}),
            ("tiny-imagenet/linf-dist-net-mlp", {"eps_warmup_epochs": 200}),
        ],
    )
    def test_an_alternative_is_the_paper_but_for_what_it_is_named_for(self, name: str, changes: dict[str, int]) -> None:
        assert load(f"{name}-released", "paper") == load(name, "paper").replace(name=f"{name}-released", **changes)


class TestBudgets:
    @pytest.mark.parametrize("name", names())
    def test_each_is_more_work_than_the_one_before(self, name: str) -> None:
        recipes = [load(name, budget) for budget in BUDGETS]
        work = [recipe.flops * recipe.epochs * (recipe.train_limit or IMAGES[recipe.dataset]) for recipe in recipes]
        assert work == sorted(set(work))

    @pytest.mark.parametrize("name", names())
    def test_shortened_ramps_climb_from_power_of_two_to_power_of_two(self, name: str) -> None:
        for budget in ("smoke", "quick", "laptop", "gpu"):
            recipe = load(name, budget)
            assert recipe.p_ladder or recipe.epochs_ramp == 0

    def test_only_the_convolutional_net_leaves_data_out_on_a_laptop(self) -> None:
        short = [name for name in names() if any(_limits(load(name, "laptop")))]
        assert short == ["cifar10/conv-linf-dist-net-mlp"]

    @pytest.mark.parametrize("name", names())
    def test_gpu_and_paper_use_all_data(self, name: str) -> None:
        assert not any(_limits(load(name, "gpu"))) and not any(_limits(load(name, "paper")))


def _limits(recipe: Recipe) -> tuple[int, int, bool]:
    return recipe.train_limit, recipe.test_limit, recipe.validation
