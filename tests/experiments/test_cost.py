import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from lib.experiments import ledger
from lib.experiments.cost import cost_table, plot_costs, shown, training_work
from lib.experiments.published import published_row
from lib.experiments.record import Record, Table
from lib.recipes import load

Run = Callable[..., tuple[Record, Table]]
ROW = "mnist/linf-dist-net"


def written(folder: Path, *runs: tuple[Record, Table]) -> Path:
    for record, table in runs:
        ledger.write(record, table, folder)
    return folder


def test_the_work_of_a_training_is_that_of_its_forward_passes() -> None:
    recipe = load(ROW, "laptop")  # 784-512-512-10
    assert training_work(recipe) == (784 * 512 + 512 * 512 + 512 * 10) * 41
    assert training_work(recipe.replace(epochs_inf=14 + 41)) == 2 * training_work(recipe)


class TestCostTable:
    def test_orders_the_runs_by_their_work_and_ends_with_the_papers(self, make_run: Run, tmp_path: Path) -> None:
        wide = make_run(ROW, width=1024)
        found = cost_table(ROW, written(tmp_path, wide, make_run(ROW), make_run(ROW, seed=1), make_run(ROW, "quick")))
        assert list(found["width"]) == [256, 512, 1024, 5120]
        assert list(found["work"]) == sorted(found["work"])
        assert list(found["runs"].fillna(0)) == [1, 2, 1, 0]
        assert found["of_paper"].iloc[-1] == 1
        assert found["certified"].iloc[-1] == published_row(ROW, 0.3)["certified"]  # type: ignore[index]
        assert found["certified"].iloc[2] == wide[0].percent(wide[0].certified["interval"])

    def test_says_what_a_tenfold_of_the_laptops_work_brings(self, make_run: Run, tmp_path: Path) -> None:
        longer = {"epochs_const": 3, "epochs_ramp": 24, "epochs_inf": 14 + 9 * 41}
        found = cost_table(
            ROW, written(tmp_path, make_run(ROW), make_run(ROW, seed=2, **longer), make_run(ROW, "quick"))
        )
        less, start, more, paper = found.to_dict("records")
        assert more["per_decade"] == pytest.approx(more["certified"] - start["certified"])
        assert paper["per_decade"] == pytest.approx(
            (92.64 - start["certified"]) / math.log10(paper["work"] / start["work"])
        )
        assert math.isnan(start["per_decade"])
        assert math.isnan(less["per_decade"])

    def test_a_rate_has_the_standard_error_of_the_laptops_seeds(self, make_run: Run, tmp_path: Path) -> None:
        runs = [make_run(ROW, seed=seed, n=100 + seed) for seed in range(3)]
        longer = make_run(ROW, n=100, epochs_const=3, epochs_ramp=24, epochs_inf=14 + 9 * 41)
        found = cost_table(ROW, written(tmp_path, *runs, longer))
        start, more, paper = found.to_dict("records")
        assert start["certified_spread"] > 0
        assert more["per_decade_spread"] == pytest.approx(start["certified_spread"] * math.sqrt(1 / 3 + 1))
        assert math.isnan(paper["per_decade_spread"])
        assert shown(found)["points per tenfold"].iloc[1].count("±") == 1

    def test_leaves_out_other_radii_recipes_and_starts_and_parts_of_the_training_set(
        self, make_run: Run, tmp_path: Path
    ) -> None:
        others = [make_run(ROW, eps_test=0.1), make_run(ROW, train_limit=1000), make_run(ROW, validation=True)]
        others.append(make_run(ROW, identity=0.0))  # another start, not another size
        found = cost_table(ROW, written(tmp_path, make_run(ROW), make_run("mnist/linf-dist-net-mlp"), *others))
        assert list(found["budget"]) == ["laptop", "the paper's"]

    def test_without_a_laptops_run_there_is_nothing_to_win_over(self, tmp_path: Path) -> None:
        found = cost_table(ROW, tmp_path)
        assert list(found["budget"]) == ["the paper's"]
        assert found["per_decade"].isna().all()
        assert shown(found).loc["the paper's", "certified (%)"] == "92.64"


@pytest.mark.parametrize(
    ("times", "text"),
    [(1, "all"), (0.75, "0.75 x"), (2, "2 x"), (0.5, "1/2"), (0.45, "1/2"), (0.1, "1/10"), (1 / 4321, "1/4,321")],
)
def test_the_share_of_the_papers_work_is_readable_below_and_above_all_of_it(times: float, text: str) -> None:
    row = {"budget": "gpu", "subset": "", "width": 1, "depth": 1, "epochs": 1, "of_paper": times, "runs": 1}
    row |= dict.fromkeys(("clean", "certified", "certified_spread", "per_decade", "per_decade_spread"), math.nan)
    assert list(shown(pd.DataFrame([row]))["of the paper's work"]) == [text]


class TestPlotCosts:
    def test_draws_every_run_and_the_papers_row(self, make_run: Run, tmp_path: Path) -> None:
        runs = (make_run(ROW), make_run(ROW, seed=1), make_run(ROW, "quick"))
        found = cost_table(ROW, written(tmp_path, *runs))
        (axes,) = plot_costs({"plain": found}).axes
        drawn = {(float(x), float(y)) for line in axes.lines for x, y in line.get_xydata()}  # type: ignore[union-attr]
        assert drawn >= set(zip(found["work"], found["certified"], strict=True))
        assert axes.get_xscale() == "log"

    def test_without_a_laptops_run_draws_no_line_to_the_papers(self, tmp_path: Path) -> None:
        found = cost_table(ROW, tmp_path)
        (axes,) = plot_costs({"plain": found}).axes
        assert not any(line.get_linestyle() == "--" for line in axes.lines)

    def test_the_papers_row_is_a_star(self, tmp_path: Path) -> None:
        found = cost_table(ROW, tmp_path)
        (axes,) = plot_costs({"plain": found}).axes
        (star,) = (line for line in axes.lines if line.get_marker() == "*")
        assert list(star.get_xydata()[0]) == list(found[["work", "certified"]].iloc[-1])  # type: ignore[union-attr]

    def test_a_run_on_part_of_the_test_set_is_hollow_and_has_a_dagger(self, make_run: Run, tmp_path: Path) -> None:
        name = "cifar10/linf-dist-net"
        found = cost_table(name, written(tmp_path, make_run(name), make_run(name, "quick")))
        assert list(shown(found).index) == ["quick †", "laptop", "the paper's"]
        (axes,) = plot_costs({"plain": found}).axes
        circles = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xydata())]  # type: ignore[arg-type]
        hollow = {float(circle.get_xydata()[0][0]): circle.get_mfc() == "none" for circle in circles}  # type: ignore[union-attr]
        quick, laptop, _ = found["work"]
        assert hollow == {quick: True, laptop: False}
