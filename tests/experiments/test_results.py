"""The committed ledger: every record is whole, the pages are made from it, and a kept net gives its row again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lib
from lib.experiments import ledger, report
from lib.recipes import load
from lib.training.data import batch, load_data

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
RECORDS = sorted(RESULTS.rglob("*.json"))
NETS = sorted(RESULTS.rglob("*.safetensors"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_every_record_lies_where_it_belongs_with_its_table(path: Path) -> None:
    record = ledger.read(path)
    assert ledger.path_of(RESULTS, record) == path
    assert len(ledger.read_table(path).label) == record.n
    assert record.commit != "unknown"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_record_is_of_what_its_recipe_says_today(path: Path) -> None:
    record = ledger.read(path)
    today = load(record.recipe.name, record.budget).replace(**record.overrides)
    # of a data set of which only a part was there, the record says how much
    found = {name: getattr(record.recipe, name) for name in ("train_limit", "test_limit") if not getattr(today, name)}
    assert today.replace(**found) == record.recipe


def test_the_books_tables_are_those_of_the_ledger(tmp_path: Path) -> None:
    for page in report.write_tables(RESULTS, tmp_path):
        assert (ROOT / "book" / "_generated" / page.name).read_text() == page.read_text(), "run `make tables`"


@pytest.mark.parametrize("path", NETS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_kept_net_gives_the_certificates_of_its_row_again(path: Path, linf_data: Callable[[str], Path]) -> None:
    record, table = ledger.read(path.with_suffix(".json")), ledger.read_table(path)
    dataset = record.recipe.dataset
    images = load_data(record.recipe, None if dataset == "digits" else linf_data(dataset)).test
    x, y = batch(images, torch.arange(len(images))), images.labels
    for method, verdicts in table.certified.items():
        again = lib.certify(lib.load(path), x, y, record.eps, method)  # type: ignore[arg-type]
        assert (again.certified.numpy() == verdicts).all()
        assert (again.correct.numpy() == table.clean).all()
