"""A file is there whole, or the old one stays."""

import json
import math
from pathlib import Path

import pytest

from lib.files import compact_json, replacing


def test_a_block_that_ends_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with replacing(path) as new:
        new.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_two_who_replace_a_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("a")
        second.write_text("b")
    assert path.read_text() == "a" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("written", [True, False])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, written: bool) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as new:
            if written:
                new.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_has_its_deep_levels_on_one_line() -> None:
    body = {"a": [{"b": [1, 2], "c": {}}, {"b": [], "c": {"d": None}}], "e": "x"}
    text = compact_json(body, 2)
    assert json.loads(text) == body
    assert text.splitlines()[2] == '  { "b": [ 1, 2 ], "c": {} },' and len(text.splitlines()) == 7
    with pytest.raises(ValueError, match="not JSON compliant"):
        compact_json({"a": math.nan}, 2)
