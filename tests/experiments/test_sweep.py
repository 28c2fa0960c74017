"""The sweep: its configuration is checked first, every row is a target, and a row leaves a notebook and a record."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from lib.experiments import ledger, sweep
from lib.recipes import FOLDER, names

ROOT = Path(__file__).resolve().parents[2]


def snakemake(folder: Path, *words: str, profile: str = "default") -> str:
    profiles = ["--workflow-profile", str(ROOT / "profiles" / profile)]
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-d", str(folder), *profiles, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    return f"{done.stdout}{done.stderr}\nstatus {done.returncode}"


def script(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


class TestConfiguration:
    def test_without_any_every_shipped_recipe_has_one_row(self) -> None:
        plan = sweep.configured({})
        assert plan.rows("quick") == [f"{name}/quick-0" for name in names()]

    def test_texts_of_the_command_line_are_lists(self) -> None:
        plan = sweep.configured({"recipes": "digits/linf-dist-net,mnist/linf-dist-net", "seeds": "0,2", "threads": "3"})
        assert plan.rows("gpu") == [
            f"{data}/linf-dist-net/gpu-{seed}" for data in ("digits", "mnist") for seed in (0, 2)
        ]
        assert sweep.configured({"seeds": 4, "threads": 3}).seeds == [4]
        assert plan.threads == 3

    @pytest.mark.parametrize(
        ("config", "sentence"),
        [
            ({"seed": 1}, "unknown key of the sweep's configuration 'seed', did you mean 'seeds'"),
            ({"recipes": "mnist/linf-dist-nte"}, "unknown recipe 'mnist/linf-dist-nte', did you mean"),
            ({"recipes": str(FOLDER / "mnist/linf-dist-net.toml")}, "unknown recipe '/.*linf-dist-net.toml', "),
            ({"recipes": 5}, r"unknown recipe 5, expected one of recipes/ \(`python -m lib run` takes the path of"),
            ({"seeds": "0,x"}, "seeds has 'x', expected whole numbers of at least 0"),
            ({"seeds": [-1]}, "seeds has -1, expected"),
            ({"seeds": True}, "seeds has True, expected"),
            ({"threads": 0}, "threads has 0, expected whole numbers of at least 1"),
            ({"device": "abacus"}, "unknown device 'abacus', expected one of auto, cpu, cuda"),
        ],
    )
    def test_a_mistake_is_refused_by_name(self, config: dict[str, object], sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            sweep.configured(config)

    def test_a_recipe_of_ones_own_which_has_no_chapter_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text('base = "digits/linf-dist-net"\n')
        with pytest.raises(ValueError, match=r"unknown recipe '.*mine\.toml', expected one of recipes/"):
            sweep.configured({"recipes": str(path)})

    def test_is_checked_without_torch(self) -> None:
        code = "import sys, lib.experiments.sweep as s; s.configured({}); sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0

    def test_a_row_runs_the_notebook_with_its_own_parameters(self) -> None:
        plan = sweep.configured({"device": "cpu", "data_root": "/sets"})
        words = plan.arguments("digits/linf-dist-net", "quick", "3")
        assert words == "-p recipe digits/linf-dist-net -p budget quick -p seed 3 -p device cpu -p data_root /sets"
        words = sweep.configured({"data_root": "my data"}).arguments("a", "b", "0")
        assert shlex.split(words)[-2:] == ["data_root", str(ROOT / "my data")]

    @pytest.mark.parametrize(
        ("given", "variable", "folder"),
        [
            ("mine", "sets", "mine"),
            (None, "sets", "sets"),
            (None, "/sets", "/sets"),
            (None, "", "data"),
            ("~", "", Path.home()),
        ],
    )
    def test_data_lie_where_they_do_for_a_run_in_the_checkout(
        self, given: str | None, variable: str, folder: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LINF_DATA", variable)
        monkeypatch.chdir(tmp_path)  # as snakemake -d does
        assert sweep.configured({"data_root": given}).data_root == str(ROOT / folder)

    @pytest.mark.parametrize(
        ("recipe", "stem"),
        [
            ("digits/linf-dist-net", "quickstart"),
            ("mnist/linf-dist-net", "mnist"),
            ("fashion-mnist/linf-dist-net", "fashion_mnist"),
            ("cifar10/sortnet", "cifar10"),
            ("cifar10/conv-linf-dist-net-mlp", "convolution"),
        ],
    )
    def test_a_row_is_run_by_the_chapter_of_its_data_or_of_its_kind_of_net(self, recipe: str, stem: str) -> None:
        assert sweep.chapter(recipe).stem == stem

    @pytest.mark.parametrize("recipe", names())
    def test_every_recipe_has_a_notebook_that_is_there(self, recipe: str) -> None:
        assert sweep.chapter(recipe).is_file()


class TestSnakefile:
    @pytest.mark.parametrize("profile", ["default", "slurm"])
    def test_every_recipe_is_a_job_of_a_budgets_target(self, tmp_path: Path, profile: str) -> None:
        said = snakemake(tmp_path, "-n", "gpu", profile=profile)
        assert said.endswith("status 0")
        assert f"gpu_row       {len(names())}\n" in said
        assert "results/mnist/linf-dist-net/gpu-0.json" in said and "runs/mnist/linf-dist-net/gpu-0.ipynb" in said
        assert list(tmp_path.rglob("*.json")) == []

    def test_data_are_not_looked_for_in_the_folder_of_the_rows(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("LINF_DATA", raising=False)
        said = snakemake(tmp_path, "-n", "-p", "quick", "--config", "recipes=mnist/linf-dist-net")
        assert f"-p data_root {ROOT}/data " in said

    @pytest.mark.parametrize(("budget", "gpus"), [("quick", False), ("laptop", False), ("gpu", True), ("paper", True)])
    def test_a_cluster_is_asked_for_a_gpu_where_a_row_needs_one(
        self, budget: str, gpus: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for command in ("sacct", "sacctmgr", "scontrol", "squeue"):
            script(tmp_path / "bin" / command, "exit 0")
        script(tmp_path / "bin/sinfo", "printf 'PARTITION\\nmain*\\ngpu\\n'")
        script(tmp_path / "bin/sbatch", f'echo "$@" >> {tmp_path}/asked; exit 1')
        monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("USER", "reader")
        at_once = ("--retries", "0", "--slurm-init-seconds-before-status-checks", "1")
        said = snakemake(tmp_path, budget, *at_once, "--config", "recipes=digits/linf-dist-net", profile="slurm")
        assert (tmp_path / "asked").is_file(), said
        asked = (tmp_path / "asked").read_text()
        assert "--mem 16000" in asked and ("--gpus" in asked) == gpus
        assert f"-p {'gpu' if gpus else 'main'} " in asked

    @pytest.mark.parametrize("profile", ["kubernetes", "slurm"])
    def test_no_profile_gives_a_gpu_to_every_row(self, profile: str) -> None:
        settings = yaml.safe_load((ROOT / "profiles" / profile / "config.yaml").read_text())
        assert not {"gpu", "slurm_partition"} & settings["default-resources"].keys()

    def test_a_mistake_stops_it_before_the_first_job(self, tmp_path: Path) -> None:
        said = snakemake(tmp_path, "quick", "--config", "recipes=digits/linf-dist-nte")
        assert "unknown recipe 'digits/linf-dist-nte'" in said and not said.endswith("status 0")
        assert not (tmp_path / "runs").exists()

    def test_a_row_that_fails_leaves_its_notebook_which_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "runs/digits/linf-dist-net/smoke-5.json").mkdir(parents=True)  # in the way of the record
        words = ("--cores", "1", "--config", "recipes=digits/linf-dist-net", "seeds=5", "device=cpu", "threads=1")
        assert not snakemake(tmp_path, "smoke", *words).endswith("status 0")
        assert not list(tmp_path.rglob("results/**/*.json"))
        notebook = nbformat.read(tmp_path / "runs/digits/linf-dist-net/smoke-5.ipynb", as_version=4)
        assert any(output.output_type == "error" for cell in notebook.cells for output in cell.get("outputs", []))

    def test_a_row_leaves_its_notebook_and_its_record_and_is_not_run_again(self, tmp_path: Path) -> None:
        words = (
            "smoke",
            "--cores",
            "1",
            "--config",
            "recipes=digits/linf-dist-net",
            "seeds=5",
            "device=cpu",
            "threads=1",
        )
        weights = tmp_path / "results/digits/linf-dist-net/smoke-5.safetensors"
        weights.parent.mkdir(parents=True)
        weights.touch()  # of an earlier run, whose record is gone
        assert snakemake(tmp_path, *words).endswith("status 0")
        assert not weights.exists()
        (record,) = ledger.records(tmp_path / "results")
        assert (record.recipe.name, record.budget, record.seed) == ("digits/linf-dist-net", "smoke", 5)
        ledger.read_table(tmp_path / "results/digits/linf-dist-net/smoke-5.json")
        notebook = nbformat.read(tmp_path / "runs/digits/linf-dist-net/smoke-5.ipynb", as_version=4)
        assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
        assert "Nothing to be done" in snakemake(tmp_path, *words)
