import dataclasses
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.experiments import ledger, report
from lib.experiments.markdown import best
from lib.experiments.published import FOLLOWUPS, published, published_row, tables
from lib.experiments.record import Record, Table
from lib.experiments.summary import shown_eps
from lib.recipes import load, names

Run = Callable[..., tuple[Record, Table]]


def certified(count: int, n: int, run: tuple[Record, Table]) -> tuple[Record, Table]:
    """The run with `count` of `n` images right and certified, the others wrong."""
    record, table = run
    right = np.arange(n) < count
    counts = {"n": n, "clean": count, "robust": count, "robust_strong": count}
    record = dataclasses.replace(record, **counts, certified={"margin": count, "interval": count})
    columns = {"label": np.zeros(n), "prediction": ~right, "radius": 0.4 * right, "robust": right}
    columns |= {"robust_strong": right, "certified": {"margin": right, "interval": right}}
    return record, dataclasses.replace(table, **columns, survived=np.repeat(right[:, None], 5, axis=1))


class TestRounding:
    def test_certified_is_rounded_down(self) -> None:
        assert report.rounded_down(92.649) == "92.64"
        assert report.rounded_down(-3.701) == "-3.71"

    def test_what_has_two_decimals_stays(self) -> None:
        assert [report.rounded_down(100 * k / 10000) for k in range(10001)] == [f"{k / 100:.2f}" for k in range(10001)]

    def test_clean_is_rounded_to_nearest(self) -> None:
        assert (report.rounded(92.649), report.rounded(92.641)) == ("92.65", "92.64")

    def test_no_number_is_a_dash(self) -> None:
        assert report.rounded(math.nan) == report.rounded_down(math.nan) == "-"

    @given(st.floats(-100, 100))
    def test_rounding_down_never_overstates_and_loses_less_than_a_hundredth(self, percent: float) -> None:
        printed = Decimal(report.rounded_down(percent))
        assert 0 <= Fraction(percent) - Fraction(printed) + Fraction(1, 10**12) < Fraction(1, 100) + Fraction(2, 10**12)

    @given(st.integers(1, 60000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_counts_are_rounded_down_exactly(self, pair: tuple[int, int]) -> None:
        count, n = pair
        assert Decimal(report.rounded_down(100 * count / n)) * 100 == (10000 * count) // n


def printed(recipe: str, eps: float) -> dict[str, float]:
    return {name: value for name, value in (published_row(recipe, eps) or {}).items() if not math.isnan(value)}


class TestPublished:
    def test_the_rows_are_those_printed(self) -> None:
        assert printed("mnist/linf-dist-net", 0.3) == {"clean": 98.54, "robust": 94.71, "certified": 92.64}
        assert printed("cifar10/linf-dist-net-mlp", 8 / 255) == {"clean": 50.80, "robust": 37.06, "certified": 35.42}
        assert printed("cifar10/depth-10-gauss", 8 / 255) == {"train": 58.72, "clean": 55.04}

    def test_another_radius_is_another_row(self) -> None:
        assert published_row("mnist/linf-dist-net", 0.1) is None

    def test_a_row_of_seconds_alone_is_no_row_of_accuracies(self) -> None:
        assert "cifar10/linf-dist-net" in set(published(4)["recipe"])
        assert published_row("cifar10/linf-dist-net", 2 / 255) is None

    def test_what_a_caller_does_to_a_table_stays_with_the_caller(self) -> None:
        table = published(1)
        table["clean"] = 0.0
        assert printed("mnist/linf-dist-net", 0.3)["clean"] == 98.54

    def test_the_tables_with_accuracies_and_times_of_distance_nets_are_kept(self) -> None:
        assert tables() == [1, 2, 3, 4, 7, 9, "followups"]

    def test_the_follow_ups_are_the_best_published_rows_of_these_nets(self) -> None:
        assert printed("mnist/linf-dist-net-v2", 0.3) == {"clean": 98.56, "robust": 94.73, "certified": 93.20}
        assert printed("cifar10/linf-dist-net-v2", 8 / 255) == {"clean": 54.30, "robust": 41.84, "certified": 40.06}
        assert published_row("mnist/linf-dist-net-v2", 0.1) is None

    @pytest.mark.parametrize("number", tables()[:-1])
    def test_every_row_of_a_distance_net_and_of_ibp_has_a_recipe_that_is_shipped(self, number: int) -> None:
        rows = published(number)
        assert set(rows["recipe"]) - {""} <= set(names())
        ours = rows["reference"] == "this paper" if "reference" in rows else rows["recipe"] == rows["recipe"]
        rival = rows["method"] == "IBP" if "method" in rows else ~ours
        assert ours.any() and ((rows["recipe"] != "") == (ours | rival)).all()
        assert rows["recipe"][rival & ~ours].str.endswith("/ibp").all()

    @pytest.mark.parametrize("number", [1, 2, 9])
    def test_printed_flops_are_those_of_the_paper_budget(self, number: int) -> None:
        rows = published(number)
        for paper in rows[rows["recipe"] != ""].to_dict("records"):
            assert float(f"{load(paper['recipe'], 'paper').flops:.3g}") == paper["flops"]

    @pytest.mark.parametrize("number", [1, 2, 3, 9, FOLLOWUPS])
    def test_printed_radii_are_those_of_the_recipes(self, number: int | str) -> None:
        rows = published(number)
        for paper in rows[rows["recipe"] != ""].to_dict("records"):
            assert published_row(paper["recipe"], load(paper["recipe"], "paper").eps_test) is not None

    def test_table_7_has_clean_accuracies_alone(self) -> None:
        row = published_row("cifar10/depth-10-gauss", 8 / 255)
        assert row is not None
        assert row["clean"] == 55.04
        assert math.isnan(row["robust"]) and math.isnan(row["certified"])

    @pytest.mark.parametrize("number", [0, 5, "1"])
    def test_another_table_is_refused(self, number: int) -> None:
        with pytest.raises(ValueError, match=r"table is .*, expected one of 1, 2, 3, 4, 7, 9, followups"):
            report.table(number, "nowhere")

    @pytest.mark.parametrize("number", [1, 2, 3, 9, FOLLOWUPS])
    def test_printed_accuracies_are_ordered(self, number: int | str) -> None:
        for _, paper in published(number).iterrows():
            values = [value for value in (paper["certified"], paper["robust"], paper["clean"]) if not math.isnan(value)]
            assert values == sorted(values)
            assert values[0] > 0
            assert values[-1] < 100


class TestTable:
    def ours(self, results: Path) -> "list[dict[str, object]]":
        frame = report.table(1, results)
        return frame[frame["recipe"] == "mnist/linf-dist-net"].to_dict("records")

    def test_an_empty_ledger_says_so_in_every_row(self, tmp_path: Path) -> None:
        frame = report.table(1, tmp_path)
        assert len(frame) == len(published(1))
        assert (frame["runs"] == 0).all()
        text = report.table_page(frame)
        assert text.count("| no run yet |") == 9
        assert [line for line in text.splitlines() if "92.64" in line] == [
            "| l_inf-dist Net (this paper) | 82.7M | no run yet | 98.54 | 94.71 | 92.64 |"
        ]

    def test_one_run_has_no_spread(self, tmp_path: Path, make_run: Run) -> None:
        ledger.write(*certified(9264, 10000, make_run(n=10000)), tmp_path)
        (ours,) = self.ours(tmp_path)
        assert (ours["budget"], ours["runs"], ours["seeds"], ours["subset"]) == ("laptop", 1, "0", "")
        assert (ours["certified"], ours["difference"]) == (92.64, 0.0)
        assert math.isnan(float(str(ours["certified_spread"])))

    def test_three_runs_have_mean_spread_and_seeds(self, tmp_path: Path, make_run: Run) -> None:
        counts = (9200, 9230, 9245)
        for seed, count in enumerate(counts):
            ledger.write(*certified(count, 10000, make_run(seed=seed, n=10000)), tmp_path)
        (ours,) = self.ours(tmp_path)
        assert (ours["runs"], ours["seeds"], ours["certified"]) == (3, "0, 1, 2", 92.25)
        assert ours["certified_spread"] == pytest.approx(statistics.stdev(count / 100 for count in counts))
        assert ours["difference"] == -0.39
        mean = "92.25 ± 0.23"
        cells = f"98.54 | {mean} | 94.71 | {mean} | {mean} | 92.64 | {mean} | \N{MINUS SIGN}0.39 |"
        assert f"| laptop, 3 runs | {cells}" in report.table_page(report.table(1, tmp_path))

    def test_budgets_are_not_mixed(self, tmp_path: Path, make_run: Run) -> None:
        for budget in ("paper", "laptop", "gpu"):
            ledger.write(*make_run(budget=budget), tmp_path)
        assert [ours["budget"] for ours in self.ours(tmp_path)] == ["laptop", "gpu", "paper"]

    def test_seeds_are_counted_in_their_own_order(self, tmp_path: Path, make_run: Run) -> None:
        for seed in (10, 2):  # as paths "laptop-10" comes first
            ledger.write(*make_run(seed=seed), tmp_path)
        assert [ours["seeds"] for ours in self.ours(tmp_path)] == ["2, 10"]

    def test_devices_are_named_once_each_in_the_order_of_the_seeds(self, tmp_path: Path, make_run: Run) -> None:
        for seed, device in enumerate(("one GPU", "another", "one GPU")):
            record, table = make_run(seed=seed)
            ledger.write(dataclasses.replace(record, device=device), table, tmp_path)
        assert [ours["device"] for ours in self.ours(tmp_path)] == ["one GPU; another"]

    def test_what_no_run_was_certified_by_is_no_number(self, tmp_path: Path, make_run: Run) -> None:
        record, table = make_run()
        by_margin = {"certified": {"margin": record.certified["margin"]}, "certificates": {"margin": "Fact 3.6"}}
        verdicts = {"margin": table.certified["margin"]}
        ledger.write(dataclasses.replace(record, **by_margin), dataclasses.replace(table, certified=verdicts), tmp_path)
        (ours,) = self.ours(tmp_path)
        assert math.isnan(float(str(ours["certified"]))) and math.isnan(float(str(ours["difference"])))
        assert ours["certified_margin"] == record.percent(record.certified["margin"]) and ours["certificate"] == ""

    def test_runs_with_overrides_are_other_experiments(self, tmp_path: Path, make_run: Run) -> None:
        ledger.write(*make_run(eps_test=0.1), tmp_path)
        assert [ours["runs"] for ours in self.ours(tmp_path)] == [0]

    def test_a_subset_carries_a_dagger_and_no_difference(self, tmp_path: Path, make_run: Run) -> None:
        ledger.write(*make_run(budget="smoke"), tmp_path)
        (ours,) = self.ours(tmp_path)
        assert math.isnan(float(str(ours["difference"])))
        text = report.table_page(report.table(1, tmp_path))
        assert "| smoke †, 1 run |" in text
        assert "\n† Made on part of the data, so not comparable with the paper's: 1,000 training images, 200" in text

    def test_a_whole_test_set_carries_no_dagger(self, tmp_path: Path, make_run: Run) -> None:
        ledger.write(*make_run(), tmp_path)
        assert "†" not in report.table_page(report.table(1, tmp_path))

    def test_certified_is_printed_rounded_down(self, tmp_path: Path, make_run: Run) -> None:
        ledger.write(*certified(2, 3, make_run(n=3)), tmp_path)
        assert "| 66.67 | 94.71 | 66.67 | 66.67 | 92.64 | 66.66 |" in report.table_page(report.table(1, tmp_path))


class TestRow:
    def test_shows_the_run_above_the_paper(self, make_run: Run) -> None:
        record, _ = certified(9264, 10000, make_run(n=10000))
        frame = report.row(record)
        assert list(frame.index) == ["this run", "paper"]
        assert list(frame["certified (%)"]) == ["92.64", "92.64"]
        assert frame.loc["this run", "budget"] == "laptop"

    @pytest.mark.parametrize(
        ("name", "data"),
        [("cifar10/sortnet", "whole test set, PGD-100"), ("cifar10/linf-dist-net", "whole test set")],
    )
    def test_says_where_the_published_attack_had_more_steps(self, make_run: Run, name: str, data: str) -> None:
        assert report.row(make_run(name, n=20)[0]).loc["paper", "data"] == data

    def test_marks_a_subset(self, make_run: Run) -> None:
        frame = report.row(make_run(budget="smoke")[0])
        assert frame.index[0] == "this run †"
        assert frame["data"].iloc[0] == "1,000 training images, 200 test images"

    @pytest.mark.parametrize(
        ("name", "changes"), [("digits/linf-dist-net", {}), ("mnist/linf-dist-net", {"eps_test": 0.1})]
    )
    def test_has_no_paper_number_for_other_data_or_radii(
        self, make_run: Run, name: str, changes: dict[str, float]
    ) -> None:
        frame = report.row(make_run(name, **changes)[0])
        assert frame.loc["paper", "data"] == "no published number for this data and radius"
        assert frame.loc["paper", "certified (%)"] == ""

    def test_several_runs_stand_beside_the_papers_accuracies(self, make_run: Run) -> None:
        plain, (record, _) = make_run("cifar10/ablation-a", n=100)[0], make_run("cifar10/ablation-e", "smoke")
        frame = report.compared({"A": plain, "E": record})
        assert list(frame.index) == ["A", "E †"]
        assert list(frame["paper: certified (%)"]) == ["7.02", "33.30"]
        assert list(frame["paper: clean (%)"]) == ["28.21", "56.80"]
        assert list(frame["paper: robust (%)"]) == ["8.42", "37.46"]
        assert "changed" not in frame

    def test_a_measure_that_the_paper_does_not_print_has_no_column(self, make_run: Run) -> None:
        frame = report.compared({"seven layers": make_run("cifar10/depth-7-gauss", n=20)[0]})
        assert list(frame["paper: clean (%)"]) == ["56.77"]
        assert "paper: certified (%)" not in frame

    def test_a_run_without_a_published_number_has_none_beside_it(self, make_run: Run) -> None:
        runs = {"small": make_run("digits/linf-dist-net", n=20, width=64)[0], "A": make_run("cifar10/ablation-a")[0]}
        frame = report.compared(runs)
        assert list(frame["paper: certified (%)"]) == ["-", "7.02"]
        assert list(frame["changed"]) == ["width = 64", ""]

    def test_names_the_overrides(self, make_run: Run) -> None:
        assert report.row(make_run(eps_test=0.1)[0])["changed"].iloc[0] == "eps_test = 0.1"


class TestStanding:
    def test_counts_go_down_from_clean_to_proved(self, make_run: Run) -> None:
        record = make_run()[0]
        frame = report.standing(record)
        assert list(frame.index[:3]) == ["clean", "paper's attack", "stronger attack"]
        assert list(frame["images"][:3]) == [record.clean, record.robust, record.robust_strong]
        assert frame.loc["proved by margin", "images"] == record.certified["margin"]
        assert set(frame["of"]) == {record.n}


class TestWriteTables:
    def test_writes_the_same_bytes_twice(self, tmp_path: Path, make_run: Run) -> None:
        for name in ("mnist/linf-dist-net", "digits/linf-dist-net"):
            ledger.write(*make_run(name), tmp_path / "results")
        pages = report.write_tables(tmp_path / "results", tmp_path / "first")
        assert {page.name for page in pages} >= {"table1.md", "table1-mnist.md", "table7.md", "claims.md"}
        again = report.write_tables(tmp_path / "results", tmp_path / "second")
        assert [page.read_bytes() for page in pages] == [page.read_bytes() for page in again]

    def test_reads_every_record_once(self, tmp_path: Path, make_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def count(path: Path) -> Record:
            paths.append(path)
            return read(path)

        paths: list[Path] = []
        read = ledger.read
        monkeypatch.setattr(ledger, "read", count)
        written = [ledger.write(*make_run(seed=seed), tmp_path / "results") for seed in range(2)]
        report.write_tables(tmp_path / "results", tmp_path / "pages")
        assert paths == written

    def test_radii_in_pixel_steps_are_fractions(self, tmp_path: Path, make_run: Run) -> None:
        for eps, text in ((0.3, "0.3"), (8 / 255, "8/255"), (1 / 255, "1/255"), (0.031, "0.031"), (0.2, "0.2")):
            assert shown_eps(eps) == text
        assert report.row(make_run("cifar10/linf-dist-net")[0])["eps"].iloc[0] == "8/255"

    def test_claims_hold_every_shipped_recipe(self, tmp_path: Path, make_run: Run) -> None:
        ledger.write(*make_run("digits/linf-dist-net"), tmp_path / "results")
        report.write_tables(tmp_path / "results", tmp_path)
        text = (tmp_path / "claims.md").read_text()
        assert all(f"| `{name}` |" in text for name in names())
        assert "| `digits/linf-dist-net` | 0.1 | laptop | 200 test images | 1 (0) |" in text
        assert "| `mnist/linf-dist-net` | 0.3 | no run yet |  |  |  |  |  |  |  | 92.64 |" in text

    def test_the_overview_shows_each_recipe_at_its_largest_budget(self, tmp_path: Path, make_run: Run) -> None:
        for budget, count in (("quick", 30), ("laptop", 40)):
            run = certified(count, 60, make_run("mnist/linf-dist-net", budget, n=60))
            ledger.write(*run, tmp_path / "results")
        report.write_tables(tmp_path / "results", tmp_path)
        text = (tmp_path / "overview.md").read_text()
        assert "| `mnist/linf-dist-net` | 0.3 | laptop | 66.67 | 66.67 | 66.66 | 92.64 | \N{MINUS SIGN}25.98 |" in text
        assert "quick" not in text and "part of the data" not in text
        assert "| `cifar10/linf-dist-net` | 8/255 | no run yet |  |  |  | 33.30 |" in text
        assert not any(name in text for name in ("ablation", "depth", "digits"))

    def test_the_overview_says_which_of_its_rows_saw_which_part(self, tmp_path: Path, make_run: Run) -> None:
        for name, budget in (("cifar10/linf-dist-net", "quick"), ("fashion-mnist/linf-dist-net", "smoke")):
            ledger.write(*make_run(name, budget), tmp_path / "results")
        report.write_tables(tmp_path / "results", tmp_path)
        footnote = (tmp_path / "overview.md").read_text().splitlines()[-1]
        assert "paper's: `cifar10/linf-dist-net` on 200 test images; `fashion-mnist/linf-dist-net` on 1,000" in footnote

    def test_a_deleted_record_leaves_no_number_anywhere(self, tmp_path: Path, make_run: Run) -> None:
        for name in ("cifar10/linf-dist-net", "cifar10/depth-6-gauss", "cifar10/conv-linf-dist-net-mlp"):
            path = ledger.write(*certified(123, 987, make_run(name, n=987)), tmp_path / "results")
            report.write_tables(tmp_path / "results", tmp_path / "pages")
            pages = list((tmp_path / "pages").iterdir())
            assert any("12.46" in page.read_text() for page in pages)
            path.unlink()
            report.write_tables(tmp_path / "results", tmp_path / "pages")
            assert not any("12.46" in page.read_text() for page in pages)


class TestEveryTable:
    @pytest.mark.parametrize("number", tables())
    def test_each_of_its_recipes_shows_its_run(self, number: int | str, tmp_path: Path, make_run: Run) -> None:
        recipes = [name for name in published(number)["recipe"] if name]
        for name in recipes:
            ledger.write(*make_run(name, "paper", seed=7, n=20), tmp_path)
        text = report.table_page(report.table(number, tmp_path))
        assert text.count("| paper, 1 run |") == len(recipes)
        assert "no run yet" not in text

    def test_seconds_are_per_epoch_with_the_nets_own_flops(self, tmp_path: Path, make_run: Run) -> None:
        ledger.write(*make_run("cifar10/linf-dist-net"), tmp_path)
        frame = report.table(4, tmp_path)
        (ours,) = frame[frame["runs"] == 1].to_dict("records")
        assert ours["seconds"] == 4.0  # of the median epoch at finite p: one was disturbed, most are at p = inf
        assert ours["our_flops"] == load("cifar10/linf-dist-net", "laptop").flops
        text = report.table_page(frame)
        assert "Seconds of training per epoch" in text and "Robust:" not in text

    def test_seconds_of_ours_are_never_the_best_since_nets_and_machines_differ(
        self, tmp_path: Path, make_run: Run
    ) -> None:
        for name in ("cifar10/linf-dist-net", "cifar10/linf-dist-net-mlp"):
            ledger.write(*make_run(name), tmp_path)
        text = report.table_page(report.table(4, tmp_path))
        assert text.count("| **") == 1 and "| **17.40** |" in text

    def test_training_accuracy_is_that_of_the_last_epoch(self, tmp_path: Path, make_run: Run) -> None:
        record, table = make_run("cifar10/depth-7-identity")
        ledger.write(record, table, tmp_path)
        frame = report.table(7, tmp_path)
        (ours,) = frame[frame["runs"] == 1].to_dict("records")
        assert ours["train"] == pytest.approx(90.0)
        assert ours["difference"] == pytest.approx(100 * record.clean / record.n - 57.06)

    def test_says_attack_and_certificate_in_the_records_words(self, tmp_path: Path, make_run: Run) -> None:
        record, table = make_run(n=1200)
        ledger.write(record, table, tmp_path)
        text = report.table_page(report.table(1, tmp_path))
        assert f"Robust: {record.attacks['robust']}; 20 steps." in text
        assert f"Certified: {record.certificates['interval']}." in text


class TestBest:
    def runs(self, results: Path, make_run: Run, **counts: int) -> pd.DataFrame:
        names = {"plain": "mnist/linf-dist-net", "composite": "mnist/linf-dist-net-mlp"}
        for name, count in counts.items():
            ledger.write(*certified(count, 100, make_run(names[name], n=100)), results)
        return report.table(1, results)

    def recipes(self, frame: pd.DataFrame, column: str) -> set[str]:
        return {frame.loc[index, "method"] for index in best(frame, column)}

    def test_the_papers_best_is_found_for_each_data_set(self, tmp_path: Path) -> None:
        frame = report.table(1, tmp_path)
        winners = frame.loc[sorted(best(frame, "paper_certified"))]
        assert list(winners["paper_certified"]) == [93.09, 79.23, 35.42]
        assert "**93.09**" in report.table_page(frame)
        assert "**92.64**" not in report.table_page(frame)

    def test_ours_is_the_run_with_more(self, tmp_path: Path, make_run: Run) -> None:
        frame = self.runs(tmp_path, make_run, plain=81, composite=79)
        assert self.recipes(frame, "certified") == {"l_inf-dist Net"}
        assert "**81.00**" in report.table_page(frame)
        assert "**79.00**" not in report.table_page(frame)

    def test_a_tie_has_two_and_one_run_alone_none(self, tmp_path: Path, make_run: Run) -> None:
        assert best(self.runs(tmp_path, make_run, plain=80), "certified") == set()
        assert len(best(self.runs(tmp_path, make_run, composite=80), "certified")) == 2

    def test_a_run_on_part_of_the_data_is_never_best(self, tmp_path: Path, make_run: Run) -> None:
        self.runs(tmp_path, make_run, plain=80, composite=81)
        ledger.write(*certified(99, 100, make_run(budget="smoke", n=100)), tmp_path)
        frame = report.table(1, tmp_path)
        assert [frame.loc[index, "budget"] for index in best(frame, "certified")] == ["laptop"]

    def test_rows_at_another_radius_are_no_rivals(self) -> None:
        eps, clean = ["0.1", "0.1", "0.3", "0.3"], [90, 91, 70, 60]
        assert best(pd.DataFrame({"dataset": "MNIST", "eps": eps, "subset": "", "clean": clean}), "clean") == {1, 2}

    def test_where_rows_are_variants_each_method_has_its_best(self) -> None:
        columns = {"dataset": "CIFAR10", "method": ["ours", "ours", "theirs", "theirs"], "subset": ""}
        frame = pd.DataFrame(columns | {"clean": [50, 40, 20, 30]})
        assert best(frame, "clean") == {0}
        assert best(frame.assign(row=["A", "B", "C", "D"]), "clean") == {0, 3}

    def test_fewer_seconds_are_better(self, tmp_path: Path) -> None:
        frame = report.table(4, tmp_path)
        assert [frame.loc[index, "method"] for index in best(frame, "paper_seconds")] == ["IBP"]


class TestFigures:
    def test_the_certified_curve_is_the_share_of_images_with_a_larger_radius(self, make_run: Run) -> None:
        record, table = make_run(n=100)
        axes = report.plot_radii(record, table).axes[0]
        radii, percents = axes.lines[0].get_data()
        for radius, percent in zip(radii, percents, strict=True):
            assert percent == pytest.approx(100 * np.mean(table.radius > radius))

    def test_the_attack_curve_is_the_share_of_survivors(self, make_run: Run) -> None:
        record, table = make_run(n=100)
        attack = report.plot_radii(record, table).axes[0].lines[1]
        np.testing.assert_allclose(attack.get_xdata(), table.radii)
        np.testing.assert_allclose(attack.get_ydata(), 100 * table.survived.mean(axis=0))

    def test_both_axes_have_units(self, make_run: Run) -> None:
        axes = report.plot_radii(*make_run(n=10)).axes[0]
        assert "pixels" in axes.get_xlabel()
        assert "%" in axes.get_ylabel()

    @pytest.mark.parametrize(("name", "marked"), [("mnist/linf-dist-net", 3), ("digits/linf-dist-net", 0)])
    def test_the_paper_is_marked_where_it_has_the_row(self, make_run: Run, name: str, marked: int) -> None:
        labels = [line.get_label() for line in report.plot_radii(*make_run(name, n=10)).axes[0].lines]
        assert sum("(paper" in str(label) for label in labels) == marked

    def test_nothing_right_is_drawn_too(self, make_run: Run) -> None:
        report.plot_radii(*certified(0, 10, make_run(n=10)))

    def test_the_history_shows_every_epoch_and_shades_infinite_p(self, make_run: Run) -> None:
        record = make_run()[0]
        loss, accuracy, p = report.plot_history(record).axes
        np.testing.assert_allclose(loss.lines[0].get_ydata(), [row["loss"] for row in record.history])
        np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [90.0] * record.recipe.epochs)
        assert np.isnan(p.lines[0].get_ydata()[-1])
        assert [patch.get_label() for patch in p.patches] == ["p = inf"]

    def test_a_history_without_infinite_p_has_no_legend(self, make_run: Run) -> None:
        record = make_run()[0]
        finite = dataclasses.replace(record, history=[row | {"p": 8.0} for row in record.history])
        assert not any(axes.get_legend() for axes in report.plot_history(finite).axes)

    def test_what_the_paper_does_not_print_is_not_marked(self, make_run: Run) -> None:
        labels = [
            line.get_label() for line in report.plot_radii(*make_run("cifar10/depth-7-gauss", n=10)).axes[0].lines
        ]
        assert [label for label in labels if "(paper" in str(label)] == ["clean (paper)"]

    def test_several_runs_share_two_panels(self, make_run: Run) -> None:
        runs = {row: make_run(f"cifar10/ablation-{row}", seed=seed, n=100) for seed, row in enumerate("ae")}
        training, proved = report.plot_runs(runs).axes
        assert [line.get_label() for line in training.lines[1::2]] == ["a", "e"]
        assert [(line.get_label(), *line.get_ydata()) for line in proved.lines[3::4]] == [
            ("a (paper)", 7.02),
            ("e (paper)", 33.30),
        ]
        assert proved.get_legend().get_texts()[-1].get_text() == "by intervals"
        by_intervals = [record.percent(record.certified["interval"]) for record, _ in runs.values()]
        assert [float(line.get_ydata()[0]) for line in proved.lines[2:8:4]] == by_intervals
        for whole, settled, (record, _) in zip(training.lines[::2], training.lines[1::2], runs.values(), strict=True):
            accuracy, infinite = whole.get_ydata(), [math.isinf(row["p"]) for row in record.history]
            np.testing.assert_array_equal(settled.get_ydata(), np.where(infinite, accuracy, np.nan))
        for line, (_, table) in zip(proved.lines[:8:4], runs.values(), strict=True):
            for radius, percent in zip(*line.get_data(), strict=True):
                assert percent == pytest.approx(100 * np.mean(table.radius > radius))

    def test_the_confusion_shows_the_percent_of_each_label(self, make_run: Run) -> None:
        table = make_run(n=300)[1]
        names = [f"class {k}" for k in range(10)]
        axes = report.plot_confusion(table, names).axes[0]
        shown = np.asarray(axes.images[0].get_array())
        for label in range(10):
            predicted = table.prediction[table.label == label]
            assert shown[label] == pytest.approx([100 * np.mean(predicted == other) for other in range(10)])
        assert [text.get_text() for text in axes.get_yticklabels()] == names

    def test_rows_stand_beside_the_papers_with_their_spread(self, tmp_path: Path, make_run: Run) -> None:
        for name, seeds in (("ablation-a", 1), ("ablation-c", 3), ("ablation-c-mlp", 1)):
            for seed in range(seeds):
                ledger.write(*make_run(f"cifar10/{name}", seed=seed), tmp_path)
        frame = report.table(3, tmp_path)
        frame = frame[frame["runs"] > 0]
        net, head = report.plot_rows(frame, "certified", panel="method", row="row").axes
        assert [label.get_text() for label in net.get_xticklabels()] == ["A", "C"]
        assert list(net.lines[0].get_ydata()) == [7.02, 32.71] and list(head.lines[0].get_ydata()) == [35.02]
        (ours,) = net.containers
        assert list(ours.lines[0].get_ydata()) == list(frame["certified"][:2])
        (bars,) = ours.lines[2]
        heights = [top - bottom for (_, bottom), (_, top) in bars.get_segments()]
        assert heights == pytest.approx([0, 2 * frame["certified_spread"].iloc[1]])

    def test_lines_are_ours_above_the_papers(self, tmp_path: Path, make_run: Run) -> None:
        for layers, start, seeds in ((5, "gauss", 2), (6, "gauss", 1), (5, "identity", 1)):
            for seed in range(seeds):
                ledger.write(*make_run(f"cifar10/depth-{layers}-{start}", seed=seed), tmp_path)
        frame = report.table(7, tmp_path)
        frame = frame[frame["runs"] > 0]
        ours, paper = report.plot_lines(frame, "clean", line="init", along="layers").axes
        gaussian, identity = (each.lines[0] for each in ours.containers)
        assert (list(gaussian.get_xdata()), list(identity.get_xdata())) == ([5, 6], [5])
        assert list(gaussian.get_ydata()) == list(frame[frame["init"] == "gaussian"]["clean"])
        assert [list(line.get_ydata()) for line in paper.lines] == [[55.76, 55.85], [56.56]]
        names = [text.get_text() for axes in (ours, paper) for text in axes.get_legend().get_texts()]
        assert names == ["gaussian, ours", "identity, ours", "gaussian, paper", "identity, paper"]

    def test_a_figure_belongs_to_no_window(self, make_run: Run) -> None:
        import matplotlib.pyplot as plt

        report.plot_history(make_run()[0])
        assert plt.get_fignums() == []


def test_importing_the_report_does_not_import_matplotlib() -> None:
    code = "import sys, lib.experiments.report; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
