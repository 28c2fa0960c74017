"""What every chapter keeps to, what stops it, and the experiment chapters run from end to end at smoke size."""

import ast
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CHAPTERS = {path.stem: path for path in sorted((ROOT / "book").glob("*.ipynb"))}
EXPERIMENTS = (
    *("quickstart", "mnist", "fashion_mnist", "cifar10", "tiny_imagenet"),
    *("ablation", "depth", "convolution", "ibp", "sortnet"),
)
PARAMETERS = ["recipe", "eps", "budget", "seed", "data_root", "device"]


def code(chapter: str) -> list[Any]:
    return [cell for cell in nbformat.read(CHAPTERS[chapter], as_version=4).cells if cell.cell_type == "code"]


def parameters(chapter: str) -> Any:
    (cell,) = [cell for cell in code(chapter) if "parameters" in cell.metadata.get("tags", [])]
    return cell


def test_every_chapter_is_in_the_table_of_contents() -> None:
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = {chapter["file"] for part in contents["parts"] for chapter in part["chapters"]}
    assert listed >= set(CHAPTERS) >= set(EXPERIMENTS)


def test_every_chapter_with_a_recipe_is_an_experiment() -> None:
    assert {name for name in CHAPTERS if re.search('^recipe = "', code(name)[0].source, re.M)} == set(EXPERIMENTS)


def test_every_experiment_is_run_at_smoke_size() -> None:
    cases = Path(__file__).with_name("test_smoke.py").read_text()
    assert set(re.findall(r"^ {8}\(\"(\w+)\", ", cases, re.M)) == set(EXPERIMENTS)


def test_every_chapter_is_run_by_some_test() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    compared = {Path(path).stem for path in settings["testpaths"] if path.startswith("book/")}
    assert compared | {*EXPERIMENTS, "pruning"} == set(CHAPTERS)
    # `make test` takes them from there
    assert "pytest --ignore-glob='*.py'" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("name", ["_config.yml", "_toc.yml"])
def test_the_books_settings_are_links_to_those_at_the_top(name: str) -> None:
    assert (ROOT / "book" / name).readlink() == Path("..") / name


@pytest.mark.parametrize("chapter", CHAPTERS)
class TestEveryChapter:
    def test_was_run_from_top_to_bottom_without_an_error(self, chapter: str) -> None:
        assert [cell.execution_count for cell in code(chapter)] == list(range(1, len(code(chapter)) + 1))
        outputs = [output for cell in code(chapter) for output in cell.outputs]
        assert outputs
        assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)

    def test_has_small_outputs_without_traces_of_the_machine(self, chapter: str) -> None:
        outputs = nbformat.v4.writes(nbformat.v4.new_notebook(cells=code(chapter)))
        assert len(outputs) < 300_000
        assert not re.search(r"/(home|root|tmp|work|Users)/", outputs)

    def test_runs_from_any_folder(self, chapter: str) -> None:
        assert not any("../" in cell.source for cell in code(chapter))

    def test_holds_no_class_no_training_and_no_installation(self, chapter: str) -> None:
        for cell in code(chapter):
            assert not re.search(r"^\s*[!%]", cell.source, flags=re.MULTILINE)
            assert not any(isinstance(node, ast.ClassDef | ast.While) for node in ast.walk(ast.parse(cell.source)))
            assert "epoch" not in cell.source
            assert len(cell.source.splitlines()) <= 25


FROM_THE_LEDGER = [
    pytest.param(chapter, number, id=f"{chapter}-{number}")
    for chapter in CHAPTERS
    for number, cell in enumerate(code(chapter))
    if "report.claims(recipes.FOLDER.parent" in cell.source
]


@pytest.mark.parametrize(("chapter", "number"), FROM_THE_LEDGER)
def test_a_table_of_records_is_that_of_todays_records(chapter: str, number: int) -> None:
    cells, names = code(chapter), dict[str, Any]()
    for statement in (each for cell in cells for each in ast.parse(cell.source).body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            exec(ast.unparse(statement), names)
    *statements, last = ast.parse(cells[number].source).body
    exec(ast.unparse(ast.Module(statements, [])), names)
    with pd.option_context("display.max_columns", 20, "display.width", 80):  # as in a notebook
        shown = repr(eval(ast.unparse(last), names))
    (output,) = cells[number].outputs
    assert output.data["text/plain"] == shown


def test_tables_of_records_are_found() -> None:
    assert {case.values[0] for case in FROM_THE_LEDGER} == {"sortnet", "tiny_imagenet", "training"}


@pytest.mark.parametrize("chapter", EXPERIMENTS)
class TestAnExperimentChapter:
    def test_begins_with_the_six_parameters(self, chapter: str) -> None:
        assert parameters(chapter) == code(chapter)[0]
        assert [line.split(" = ")[0] for line in parameters(chapter).source.splitlines()] == PARAMETERS

    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("eps", 0, "eps is 0, expected .* 0 < eps < 1"),
            ("eps", 1.0, "eps is 1.0, expected .* 0 < eps < 1"),
            ("eps", math.nan, "eps is nan, expected .* 0 < eps < 1"),
            ("eps", "9/8", "eps is '9/8', expected .* 0 < eps < 1"),
            ("eps", "little", "eps is 'little', expected a number"),
            ("budget", "huge", "unknown budget 'huge', .*smoke, quick, laptop, gpu, paper"),
            (
                "recipe",
                "mnist/linf-dist-nte",
                "unknown recipe 'mnist/linf-dist-nte', did you mean 'mnist/linf-dist-net'",
            ),
            ("seed", -1, "seed is -1, expected a whole number of at least 0"),
            ("seed", 0.5, "seed is 0.5, expected a whole number of at least 0"),
            ("device", "abacus", "device is 'abacus', expected one of auto, cpu, cuda"),
        ],
    )
    def test_stops_in_its_first_cell_at_a_value_out_of_range(
        self, chapter: str, name: str, value: object, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        names: dict[str, Any] = {}
        exec(parameters(chapter).source, names)
        names[name] = value
        with pytest.raises(ValueError, match=sentence) as refusal:
            exec(code(chapter)[1].source, names)
        assert "\n" not in str(refusal.value)
        assert list(tmp_path.iterdir()) == []


def test_no_picture_of_tiny_imagenet_is_drawn() -> None:
    assert not any("imshow" in cell.source or "plot_examples" in cell.source for cell in code("tiny_imagenet"))
