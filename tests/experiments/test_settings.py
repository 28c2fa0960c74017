"""The table of settings: the paper's Table 6 at `paper`, and every budget that a reader can choose."""

from lib.experiments.settings import settings
from lib.recipes import names


def row(recipe: str, budget: str) -> dict[str, str]:
    frame = settings()
    return frame[(frame["Recipe"] == f"`{recipe}`") & (frame["Budget"] == budget)].iloc[0].to_dict()


def test_the_papers_rows_are_those_of_tables_5_and_6() -> None:
    plain = row("cifar10/linf-dist-net", "paper")
    assert (plain["Net"], plain["Batch"], plain["Epochs"]) == ("6 layers of 5120", "512", "100 + 650 + 50")
    assert (plain["p"], plain["Rate"], plain["Decay"]) == ("8 to 1000", "0.02", "0.005, lp")
    assert plain["Loss"] == "hinge, theta = 80/255"
    head = row("mnist/linf-dist-net-mlp", "paper")
    assert (head["Net"], head["Loss"]) == ("4 layers of 5120, head 512", "IBP, eps = 0.35, kappa = 0.5")


def test_follow_ups_and_the_convolution_say_what_is_theirs() -> None:
    assert row("cifar10/conv-linf-dist-net-mlp", "paper")["Net"] == "Table 8 at 128 channels, head 512"
    assert row("cifar10/sortnet", "paper")["Net"].endswith(", q = 0.85")
    assert "lambda = 0.1 to 0.0005" in row("cifar10/linf-dist-net-v2", "paper")["Loss"]


def test_a_net_without_distances_has_no_p() -> None:
    relu = row("mnist/ibp", "paper")
    assert (relu["Net"], relu["p"]) == ("ReLU net of 7 layers, 64 channels, dense 512", "none")


def test_radii_are_shown_as_people_write_them() -> None:
    assert "eps = 8.8/255," in row("cifar10/linf-dist-net-mlp", "paper")["Loss"]


def test_a_ladder_is_told_from_a_ramp() -> None:
    assert row("mnist/linf-dist-net", "laptop")["p"].endswith(", doubling")


def test_each_row_is_of_a_shipped_recipe_at_one_of_four_budgets() -> None:
    frame = settings()
    assert not frame.duplicated(["Recipe", "Budget"]).any()
    assert list(frame["Budget"]) == ["paper", "gpu", "laptop", "quick"] * frame["Recipe"].nunique()
    assert set(frame["Recipe"].str.strip("`")) <= set(names())
