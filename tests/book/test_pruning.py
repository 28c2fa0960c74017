"""The chapter on pruning, run from top to bottom on MNIST: what it prints, times apart, is what is committed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import papermill

CHAPTER = Path(__file__).resolve().parents[2] / "book" / "pruning.ipynb"


def checked_outputs(path: Path) -> list[Any]:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if "NBVAL_CHECK_OUTPUT" in cell.source]
    return [[output.get("text") or output["data"]["text/plain"] for output in cell.outputs] for cell in cells]


def test_the_chapter_on_pruning_prints_what_it_says(tmp_path: Path, linf_data: Callable[[str], Path]) -> None:
    out, values = tmp_path / "out.ipynb", {"data_root": str(linf_data("mnist"))}
    papermill.execute_notebook(CHAPTER, out, values, cwd=tmp_path, kernel_name="python3", progress_bar=False)
    assert len(checked_outputs(CHAPTER)) == 5
    assert checked_outputs(out) == checked_outputs(CHAPTER)
