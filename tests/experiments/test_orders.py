"""The orders of the paper's rows: which runs are compared, and what is said of them."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.experiments import ledger
from lib.experiments.markdown import orders_page
from lib.experiments.orders import ASSUMED_SPREAD, VERDICTS, orders, verdict
from lib.experiments.published import comparisons
from lib.experiments.record import Record, Table
from lib.experiments.summary import groups, unchanged
from lib.recipes import load

Run = Callable[..., tuple[Record, Table]]
PLAIN, HEAD = "mnist/linf-dist-net", "mnist/linf-dist-net-mlp"


def write(folder: Path, run: tuple[Record, Table]) -> Record:
    ledger.write(*run, folder)
    return run[0]


def of_pair(folder: Path) -> dict:
    frame = orders(groups(unchanged(folder)))
    return frame[(frame["first"] == HEAD) & (frame["second"] == PLAIN)].iloc[0].to_dict()


def test_every_comparison_is_of_two_printed_rows_and_in_the_papers_favour(tmp_path: Path) -> None:
    frame = orders(groups(unchanged(tmp_path)))
    assert len(frame) == len(comparisons()) and (frame["paper"] > 0).all()
    assert set(frame["measure"]) <= {"certified", "clean", "train"}
    for recipe in {*frame["first"], *frame["second"]}:
        assert load(recipe, "laptop").name == recipe


def test_the_papers_difference_is_that_of_its_rows(tmp_path: Path) -> None:
    assert of_pair(tmp_path)["paper"] == pytest.approx(93.09 - 92.64)


def test_without_runs_nothing_is_said(tmp_path: Path, make_run: Run) -> None:
    write(tmp_path, make_run(HEAD))
    row = of_pair(tmp_path)
    assert math.isnan(row["ours"]) and (row["budget"], row["verdict"]) == ("", "no equal runs")


def test_ours_is_the_difference_of_the_means_at_the_largest_common_budget(tmp_path: Path, make_run: Run) -> None:
    n = 1000
    for name, budget, seeds in ((HEAD, "laptop", 2), (PLAIN, "laptop", 3), (HEAD, "paper", 1), (PLAIN, "quick", 1)):
        for seed in range(seeds):
            write(tmp_path, make_run(name, budget, seed, n=n))
    frame = orders(groups(unchanged(tmp_path)))
    row = of_pair(tmp_path)
    means, spreads = [], []
    for name, seeds in ((HEAD, 2), (PLAIN, 3)):
        percents = [
            100
            * ledger.read(ledger.row_path(tmp_path, load(name, "laptop"), "laptop", seed, {})).certified["interval"]
            / n
            for seed in range(seeds)
        ]
        mean = sum(percents) / seeds
        means.append(mean)
        spreads.append(sum((each - mean) ** 2 for each in percents) / (seeds - 1))
    assert (row["budget"], row["runs"], row["subset"]) == ("laptop", (2, 3), "")
    assert row["ours"] == pytest.approx(means[0] - means[1]) and row["spread"] == pytest.approx(math.sqrt(sum(spreads)))
    assert set(frame["verdict"]) <= set(VERDICTS)


def test_runs_on_different_data_are_not_compared(tmp_path: Path, make_run: Run) -> None:
    names = "cifar10/linf-dist-net-mlp", "cifar10/conv-linf-dist-net-mlp"
    subsets = {write(tmp_path, make_run(name, "quick")).subset for name in names}
    frame = orders(groups(unchanged(tmp_path)))
    assert len(subsets) == 2 and set(frame[frame["second"] == names[1]]["verdict"]) == {"no equal runs"}


def test_a_single_run_of_another_setting_displaces_no_seeds(tmp_path: Path, make_run: Run) -> None:
    for name in (PLAIN, HEAD):
        for seed in range(3):
            write(tmp_path, make_run(name, seed=seed))
    record, table = make_run(PLAIN, seed=9)
    for rate in (0.001, 0.9):
        recipe = dataclasses.replace(record.recipe, lr=rate)
        write(tmp_path / f"{rate}", (dataclasses.replace(record, recipe=recipe), table))
    assert len(unchanged(tmp_path)) == 8 and of_pair(tmp_path)["runs"] == (3, 3)


def test_one_run_has_the_assumed_spread(tmp_path: Path, make_run: Run) -> None:
    for name in (PLAIN, HEAD):
        write(tmp_path, make_run(name))
    assert of_pair(tmp_path)["spread"] == pytest.approx(ASSUMED_SPREAD * math.sqrt(2))


@pytest.mark.parametrize(
    ("ours", "said"),
    [(2.0, "the same"), (-2.0, "the opposite"), (1.0, "too close to say"), (-0.5, "too close to say")],
)
def test_a_difference_must_exceed_its_spread(ours: float, said: str) -> None:
    assert verdict({"ours": ours, "spread": 1.0, "paper": 0.5}) == said


def test_the_page_counts_the_verdicts(tmp_path: Path, make_run: Run) -> None:
    for name in (PLAIN, HEAD):
        write(tmp_path, make_run(name))
    page = orders_page(orders(groups(unchanged(tmp_path))))
    assert f"no equal runs {len(comparisons()) - 1}.**" in page
    assert page.count("| laptop, 1 and 1 |") == 1
