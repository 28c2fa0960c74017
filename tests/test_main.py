"""The command line: what it prints, and with which exit status."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from lib.__main__ import CLOSED, INTERRUPTED, STOPPED, _override, main
from lib.experiments import ledger
from lib.recipes import Recipe
from lib.training.endings import TERMINATED
from lib.training.schedules import Knobs, knobs_at

ROOT = Path(__file__).resolve().parent.parent


def test_run_writes_a_record_and_prints_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "digits/linf-dist-net", "--budget", "smoke", "--results", str(tmp_path), "--set", "width=16"]
    assert main(words) == 0
    (record,) = tmp_path.rglob("*.json")
    printed = capsys.readouterr().out
    assert str(record) in printed and "certified (%)" in printed
    assert main(["show", str(record)]) == 0
    assert printed == capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "override"),
    [
        ("flip=True", ("flip", True)),
        ("p_ladder = false", ("p_ladder", False)),
        ("decay=None", ("decay", "none")),
        ("theta=NONE", ("theta", "none")),
        ("eps_test=8/255", ("eps_test", "8/255")),
        ("mean=[0.5]", ("mean", [0.5])),
    ],
)
def test_a_field_is_set_to_what_is_meant(text: str, override: tuple[str, Any]) -> None:
    assert _override(text) == override


def test_run_out_of_time_says_so_with_its_own_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "digits/linf-dist-net", "--budget", "smoke", "--results", str(tmp_path), "--max-minutes", "1e-6"]
    assert main(words) == STOPPED
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_run_in_slices_ends_at_the_record_of_a_run_in_one_piece(tmp_path: Path) -> None:
    words = ["run", "digits/linf-dist-net", "--budget", "smoke", "--device", "cpu", "--set", "width=16", "--results"]
    statuses = [main([*words, str(tmp_path / "sliced"), "--max-minutes", "0.002"])]
    while statuses[-1] == STOPPED and len(statuses) < 100:
        statuses.append(main([*words, str(tmp_path / "sliced"), "--max-minutes", "0.002"]))
    assert len(statuses) > 2 and statuses[-1] == 0
    assert main([*words, str(tmp_path / "whole")]) == 0
    sliced, whole = (next(ledger.records(tmp_path / name)) for name in ("sliced", "whole"))
    assert (sliced.clean, sliced.certified, sliced.robust_strong) == (whole.clean, whole.certified, whole.robust_strong)
    assert [row["loss"] for row in sliced.history] == [row["loss"] for row in whole.history]


def test_a_run_that_is_killed_goes_on_in_the_next_call(tmp_path: Path) -> None:
    words = ["run", "digits/linf-dist-net", "--budget", "smoke", "--device", "cpu", "--results", str(tmp_path)]
    kill = (
        "import os, signal, sys, lib.__main__ as m, lib.training.fit as fit\n"
        "fit.knobs_at = lambda recipe, progress, old=fit.knobs_at:"
        " os.kill(os.getpid(), signal.SIGKILL) if progress > 1.5 else old(recipe, progress)\n"
        "import lib.training.callbacks as callbacks; callbacks.CHECKPOINT_SECONDS = 0.0\n"
        "callbacks.CHECKPOINT_SHARE = 1e9\n"
        f"sys.exit(m.main({words!r}))"
    )
    done = subprocess.run([sys.executable, "-c", kill], capture_output=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    assert not list(tmp_path.rglob("*.json"))
    assert main(words) == 0
    (record,) = ledger.records(tmp_path)
    assert len(record.history) == record.recipe.epochs and not checkpoint.exists()


def test_two_machines_share_a_run_of_which_the_first_writes_the_record(tmp_path: Path) -> None:
    words = ["run", "digits/linf-dist-net", "--budget", "smoke", "--device", "cpu"]
    command = [sys.executable, "-m", "lib", *words, "--num-nodes", "2", "--results", str(tmp_path)]
    # the variables of Slurm, which would start the ranks itself, are of no account
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "SLURM_NTASKS": "2"}
    machines = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"NODE_RANK": rank, "SLURM_PROCID": rank, "SLURM_JOB_NAME": "job"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in ("0", "1")
    ]
    (shown, errors), (nothing, share) = (machine.communicate(timeout=300) for machine in machines)
    assert [machine.returncode for machine in machines] == [0, 0], errors + share
    (record,) = ledger.records(tmp_path)
    assert "record: " in shown and "record: " not in nothing
    assert "machine 1 of 0 to 1 has done its share" in share
    assert len(record.history) == record.recipe.epochs


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal: a process that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", INTERRUPTED), ("SIGTERM", TERMINATED)])
def test_a_run_that_is_interrupted_says_so_in_one_sentence(
    name: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(recipe: Recipe, progress: float) -> Knobs:
        if progress > 1:
            os.kill(os.getpid(), getattr(signal, name))
        return knobs_at(recipe, progress)

    words = ["run", "digits/linf-dist-net", "--budget", "smoke", "--device", "cpu", "--set", "width=16", "--results"]
    with monkeypatch.context() as patch:
        patch.setattr("lib.training.fit.knobs_at", interrupt)
        assert main([*words, str(tmp_path)]) == status
    assert capsys.readouterr().err.endswith("stopped; the same call goes on\n")
    assert not list(tmp_path.rglob("*.json"))
    # a press of Ctrl-C may fall into the middle of a step, which is no state to save
    assert name == "SIGINT" or list(tmp_path.rglob("last.ckpt"))
    assert main([*words, str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["table", "1"], "report.table"),
        (["tables"], "report.write_tables"),
        (["show", "results/mnist/linf-dist-net/quick-0.json"], "ledger.read"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_what_does_not_go_on_says_that_it_was_stopped_and_no_more(
    words: list[str], where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"lib.experiments.{where}", interrupt)
    assert main(words) == INTERRUPTED
    assert capsys.readouterr().err == "stopped\n"


def test_a_training_that_diverges_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "digits/linf-dist-net", "--budget", "smoke", "--set", "lr=1e38", "--results", str(tmp_path)]
    assert main(words) == 1
    assert capsys.readouterr().err.startswith("error: digits/linf-dist-net diverged: the loss of epoch 0 is ")


def test_table_prints_the_papers_rows_whatever_the_ledger_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", "1", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "92.64" in printed and "no run yet" in printed


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(unbuffered: str) -> None:
    command = [sys.executable, "-m", "lib", "table", "1", "--results", str(ROOT / "results")]
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=env) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == CLOSED


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_sentence_and_status_one(unbuffered: str) -> None:
    command = [sys.executable, "-m", "lib", "table", "1", "--results", str(ROOT / "results")]
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_the_follow_ups_are_a_table_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "followups", "--results", str(tmp_path)]) == 0
    assert "40.06" in capsys.readouterr().out


def test_tables_writes_the_books_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--results", str(tmp_path), "--folder", str(tmp_path / "pages")]) == 0
    pages = {path.name for path in (tmp_path / "pages").iterdir()}
    assert pages >= {"claims.md", "followups.md", *(f"table{number}.md" for number in (1, 2, 3, 4, 7, 9))}
    assert "claims.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "nothing/at-all"], "nothing/at-all"),
        (["run", "digits/linf-dist-net", "--budget", "huge"], "huge"),
        (["run", "digits/linf-dist-net", "--set", "name=elsewhere/x"], "name is 'elsewhere/x', expected no override"),
        (["run", "digits/linf-dist-net", "--set", "width=3", "--set", "width = 4"], "--set names width 2 times"),
        (["run", "digits/sortnet", "--devices", "2"], "devices and num_nodes are 2 and 1, expected 1 and 1"),
        (["run", "digits/linf-dist-net", "--set", "width"], "--set is 'width', expected FIELD=VALUE"),
        (["run", "digits/linf-dist-net", "--set", "eps_test=9/8"], "eps_test is"),
        (["run", "digits/linf-dist-net", "--set", "seed=3"], "recipe field"),
        (["run", "digits/linf-dist-net", "--set", "progress=false"], "recipe field"),
        (["run", "digits/linf-dist-net", "--seed", "9" * 20], "whole number of at least 0 and below 2^63"),
        (["table", "77"], "77"),
        (["tables", "--results", "nowhere"], "folder of records nowhere does not exist"),
        (["table", "followup"], "'followup', expected one of 1, 2, 3, 4, 7, 9, followups"),
        (["show", "none.json"], "none.json"),
    ],
)
def test_bad_input_is_one_sentence_and_status_one(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and len(error.splitlines()) == 1


def test_it_is_a_module_that_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "lib", "--help"], capture_output=True, text=True, check=True)
    assert "run" in done.stdout and "table" in done.stdout
