"""The command line: what it prints, and with which exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from lib.__main__ import STOPPED, main


def test_run_writes_a_record_and_prints_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "digits/linf-dist-net", "--budget", "smoke", "--results", str(tmp_path), "--set", "width=16"]
    assert main(words) == 0
    (record,) = tmp_path.rglob("*.json")
    printed = capsys.readouterr().out
    assert str(record) in printed and "certified (%)" in printed
    assert main(["show", str(record)]) == 0
    assert printed.endswith(capsys.readouterr().out)  # before it stands the progress bar


def test_run_out_of_time_says_so_with_its_own_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "digits/linf-dist-net", "--budget", "smoke", "--results", str(tmp_path), "--max-minutes", "1e-6"]
    assert main(words) == STOPPED
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_table_prints_the_papers_rows_whatever_the_ledger_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", "1", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "92.64" in printed and "no run yet" in printed


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
        (["run", "digits/linf-dist-net", "--set", "width"], "--set is 'width', expected FIELD=VALUE"),
        (["run", "digits/linf-dist-net", "--set", "eps_test=9/8"], "eps_test is"),
        (["table", "77"], "77"),
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
