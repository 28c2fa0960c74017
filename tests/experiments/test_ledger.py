import contextlib
import dataclasses
import json
import math
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib import LInfDistNet, save
from lib.experiments import ledger, provenance
from lib.experiments.record import SCHEMA, Record, Table

Run = Callable[..., tuple[Record, Table]]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def assert_same(left: Table, right: Table) -> None:
    for name in ("label", "prediction", "robust", "robust_strong", "radii", "survived"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    assert left.certified.keys() == right.certified.keys()
    for method, verdicts in left.certified.items():
        np.testing.assert_array_equal(verdicts, right.certified[method], err_msg=method)


class TestRoundTrip:
    def test_record_and_table_come_back_equal(self, tmp_path: Path, make_run: Run) -> None:
        record, table = make_run()
        path = ledger.write(record, table, tmp_path)
        assert path == tmp_path / "mnist/linf-dist-net/laptop-0.json"
        assert ledger.read(path) == record
        lines = path.read_text().splitlines()
        assert sum(line.startswith('  { "epoch": ') and '"seconds": ' in line for line in lines) == len(record.history)
        assert_same(ledger.read_table(path), table)
        assert_same(ledger.read_table(path.with_suffix(".npz")), table)

    def test_a_radius_is_kept_in_single_precision_and_never_as_more_than_it_is(
        self, tmp_path: Path, make_run: Run
    ) -> None:
        record, table = make_run()
        path = ledger.write(record, table, tmp_path)
        kept = ledger.read_table(path).radius
        assert ((kept <= table.radius) & (kept >= table.radius * (1 - 2.0**-23))).all()
        ledger.write(record, dataclasses.replace(table, radius=kept), tmp_path)
        np.testing.assert_array_equal(ledger.read_table(path).radius, kept)

    @pytest.mark.parametrize(("first", "kept"), [(0, np.uint8), (250, np.uint16), (-1, np.int16)])
    def test_labels_are_kept_in_as_few_bytes_as_hold_them(
        self, first: int, kept: type, tmp_path: Path, make_run: Run
    ) -> None:
        record, table = make_run()
        moved = {name: getattr(table, name) + first for name in ("label", "prediction")}
        table = dataclasses.replace(table, **moved)
        path = ledger.write(record, table, tmp_path)
        with np.load(path.with_suffix(".npz")) as columns:
            assert columns["label"].dtype == columns["prediction"].dtype == kept
        assert_same(ledger.read_table(path), table)

    def test_overrides_have_their_own_file(self, tmp_path: Path, make_run: Run) -> None:
        paths = {ledger.write(*make_run(**changes), tmp_path) for changes in ({}, {"eps_test": 0.1}, {"width": 64})}
        assert len(paths) == 3
        assert [record.overrides for record in ledger.records(tmp_path)].count({}) == 1

    def test_file_name_depends_on_the_value_and_not_on_its_spelling(self, tmp_path: Path, make_run: Run) -> None:
        spelled = ledger.write(*make_run(eps_test="51/255"), tmp_path)
        assert ledger.write(*make_run(eps_test=51 / 255), tmp_path) == spelled

    def test_file_name_does_not_depend_on_the_order_of_the_changes(self, tmp_path: Path, make_run: Run) -> None:
        record = make_run(width=64, eps_test=0.1)[0]
        for changes in ({"eps_test": 0.1, "width": 64}, {"width": 64, "eps_test": 0.1}):
            assert ledger.row_path(tmp_path, record.recipe, "laptop", 0, changes) == ledger.path_of(tmp_path, record)

    def test_a_new_run_replaces_the_old(self, tmp_path: Path, make_run: Run) -> None:
        ledger.write(*make_run(n=50), tmp_path)
        path = ledger.write(*make_run(n=60), tmp_path)
        assert files(tmp_path) == ["laptop-0.json", "laptop-0.npz"]
        assert ledger.read(path).n == len(ledger.read_table(path).label) == 60

    def test_json_is_standard_although_p_ends_at_infinity(self, tmp_path: Path, make_run: Run) -> None:
        text = ledger.write(*make_run(), tmp_path).read_text()
        assert "Infinity" not in text
        assert json.loads(text)["history"][-1]["p"] == "inf"

    def test_a_ledger_that_does_not_exist_is_not_an_empty_one(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere does not exist, expected a ledger"):
            list(ledger.records(tmp_path / "nowhere"))
        assert list(ledger.records(tmp_path)) == []

    def test_records_come_in_the_order_of_their_paths(self, tmp_path: Path, make_run: Run) -> None:
        for seed in (2, 0, 1):
            ledger.write(*make_run(seed=seed), tmp_path)
        assert [record.seed for record in ledger.records(tmp_path)] == [0, 1, 2]


class TestAtomicity:
    @pytest.mark.parametrize("broken", ["write_array", "dumps", "replace"])
    def test_a_failure_leaves_no_file(
        self, tmp_path: Path, make_run: Run, monkeypatch: pytest.MonkeyPatch, broken: str
    ) -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise OSError("no space left on device")

        owner = {"write_array": np.lib.format, "dumps": json, "replace": os}[broken]
        monkeypatch.setattr(owner, broken, fail)
        with pytest.raises(OSError, match="no space left"):
            ledger.write(*make_run(), tmp_path)
        assert files(tmp_path) == []

    @pytest.mark.parametrize("last", [".json", ".npz", ".safetensors"])
    def test_a_failure_between_the_files_leaves_nothing_of_either_run(
        self, last: str, tmp_path: Path, make_run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        move = os.replace

        def fail(source: Path, target: Path) -> None:
            if target.suffix == last:
                raise OSError("no space left on device")
            move(source, target)

        save_weights = partial(save, LInfDistNet((1, 2, 2), 2, width=4, depth=2))
        ledger.write(*make_run(), tmp_path, save_weights)
        assert len(files(tmp_path)) == 3
        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space left"):
            ledger.write(*make_run(), tmp_path, save_weights)
        assert files(tmp_path) == []

    def test_weights_of_an_earlier_run_do_not_stay_beside_a_record_without_any(
        self, tmp_path: Path, make_run: Run
    ) -> None:
        ledger.write(*make_run(), tmp_path, partial(save, LInfDistNet((1, 2, 2), 2, width=4, depth=2)))
        ledger.write(*make_run(), tmp_path)
        assert files(tmp_path) == ["laptop-0.json", "laptop-0.npz"]

    def test_a_failure_before_the_end_leaves_the_old_record(
        self, tmp_path: Path, make_run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record, table = make_run(n=50)
        path = ledger.write(record, table, tmp_path)

        def fail(*args: Any, **kwargs: Any) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(np.lib.format, "write_array", fail)
        with pytest.raises(OSError, match="no space left"):
            ledger.write(*make_run(n=60), tmp_path)
        assert ledger.read(path) == record
        assert_same(ledger.read_table(path), table)


class TestImplications:
    @pytest.mark.parametrize(
        ("column", "sentence"),
        [
            ("robust_strong", "3 images are certified by margin but not robust_strong"),
            ("robust", "3 images are robust_strong but not robust"),
            ("prediction", "3 images are robust but not clean"),
        ],
    )
    def test_a_broken_one_is_refused_with_the_number_of_images(
        self, tmp_path: Path, make_run: Run, column: str, sentence: str
    ) -> None:
        record, table = make_run()
        rows = np.flatnonzero(table.certified["margin"])[:3]
        values = getattr(table, column).copy()
        values[rows] = (table.label[rows] + 1) % 10 if column == "prediction" else False
        with pytest.raises(ValueError, match=sentence):
            ledger.write(record, dataclasses.replace(table, **{column: values}), tmp_path)
        assert files(tmp_path) == []

    def test_a_radius_of_a_wrong_prediction_is_refused(self, tmp_path: Path, make_run: Run) -> None:
        record, table = make_run()
        radius = np.where(table.clean, table.radius, 0.01)
        wrong = int((~table.clean).sum())
        with pytest.raises(ValueError, match=f"{wrong} images are of positive radius but not clean"):
            ledger.write(record, dataclasses.replace(table, radius=radius), tmp_path)

    def test_survival_of_a_wrong_prediction_is_refused(self, tmp_path: Path, make_run: Run) -> None:
        record, table = make_run()
        survived = table.survived.copy()
        survived[np.flatnonzero(~table.clean)[0], 2] = True
        with pytest.raises(ValueError, match=r"1 images are robust at 0.2 but not clean"):
            ledger.write(record, dataclasses.replace(table, survived=survived), tmp_path)

    @pytest.mark.parametrize("method", ["margin", "interval"])
    def test_a_radius_that_no_certificate_stands_for_is_refused(
        self, tmp_path: Path, make_run: Run, method: str
    ) -> None:
        record, table = make_run()
        rows = np.flatnonzero(table.radius > record.eps)[:3]
        verdicts = {name: each.copy() for name, each in table.certified.items()}
        verdicts[method][rows] = False
        with pytest.raises(ValueError, match=f"3 images are of radius above 0.3 but not certified by {method}"):
            ledger.write(record, dataclasses.replace(table, certified=verdicts), tmp_path)

    def test_a_radius_says_nothing_of_a_ball_just_as_large(self, tmp_path: Path, make_run: Run) -> None:
        record, table = make_run()
        row = np.flatnonzero(table.clean & ~table.robust)[0]
        radius, survived = table.radius.copy(), table.survived.copy()
        radius[row], survived[row] = record.eps, table.radii < record.eps
        path = ledger.write(record, dataclasses.replace(table, radius=radius, survived=survived), tmp_path)
        assert not ledger.read_table(path).robust[row]

    def test_an_attack_that_succeeds_within_the_radius_or_eps_is_refused(self, tmp_path: Path, make_run: Run) -> None:
        record, table = make_run()
        proved = table.certified["interval"] & (table.radius < record.eps)
        for rows, sentence in (
            (np.flatnonzero(table.radius > 0.2)[:3], "3 images are of radius above 0.2 but not robust at 0.2"),
            (np.flatnonzero(proved)[:1], "1 images are certified at 0.3 but not robust at 0.2"),
        ):
            survived = table.survived.copy()
            survived[rows, 2] = False
            with pytest.raises(ValueError, match=sentence):
                ledger.write(record, dataclasses.replace(table, survived=survived), tmp_path)

    def test_the_attack_of_the_curve_is_that_of_the_verdict(self, tmp_path: Path, make_run: Run) -> None:
        record, table = make_run()
        weak = np.flatnonzero(table.robust & ~table.robust_strong)[:1]
        for column, sentence in (("robust", "robust at 0.3 but not robust"), ("survived", "robust but not robust at")):
            values = getattr(table, column).copy()
            values[(weak, 3) if column == "survived" else weak] = False
            with pytest.raises(ValueError, match=f"1 images are {sentence}"):
                ledger.write(record, dataclasses.replace(table, **{column: values}), tmp_path)

    def test_counts_that_are_not_those_of_the_table_are_refused(self, tmp_path: Path, make_run: Run) -> None:
        record, table = make_run()
        with pytest.raises(ValueError, match=r"the table counts .*, expected the record's"):
            ledger.write(dataclasses.replace(record, clean=record.clean + 1), table, tmp_path)


class TestBadRecords:
    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"clean": 201}, "expected 0 <= certified <= robust_strong <= robust <= clean <= n"),
            ({"robust": 0}, "expected 0 <= certified"),
            ({"certified": {"margin": -1, "interval": 3}}, "expected 0 <= certified"),
            ({"certified": {"margin": 200, "interval": 3}}, "expected 0 <= certified"),
            ({"certified": {"other": 3}}, "certificates .* expected .*other"),
            ({"attacks": {"robust": "PGD-20"}}, "attacks name .* expected robust, robust_strong"),
            ({"n": 0}, "n is 0, expected at least one image"),
            ({"budget": "huge"}, "budget is 'huge', expected one of smoke"),
            ({"seed": -1}, "seed is -1, expected at least 0"),
            ({"eps": 0.1}, r"eps is 0.1, expected the recipe's eps_test = 0.3"),
            ({"overrides": {"width": 3}}, "overrides are .*, expected the values that the recipe resolved to"),
            ({"overrides": {"widht": 3}}, "unknown recipe field 'widht'"),
            ({"seconds_train": float("nan")}, "seconds_train is nan, expected a finite number"),
            ({"peak_memory": -1}, "peak_memory is -1, expected a finite number"),
            ({"peak_memory": 10**400}, "peak_memory is 10+, expected a finite number"),
            ({"history": []}, "history has 0 rows, expected [1-9][0-9]*, one per epoch"),
            ({"schema": SCHEMA + 1}, "a newer version"),
            ({"schema": SCHEMA - 1}, "an older version"),
        ],
    )
    def test_values_out_of_range_are_refused(self, make_run: Run, changes: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            dataclasses.replace(make_run()[0], **changes)

    def test_a_run_that_proved_nothing_in_no_time_is_a_record_like_any_other(self, make_run: Run) -> None:
        record = make_run()[0]
        nothing = dict.fromkeys(("clean", "robust", "robust_strong", "seconds_train", "seconds_evaluate"), 0)
        none = dataclasses.replace(record, **nothing, peak_memory=0, certified=dict.fromkeys(record.certified, 0))
        assert none.certified == {"margin": 0, "interval": 0}

    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("loss", math.inf, "history has loss = inf, expected a finite number"),
            pytest.param("loss", 10**400, "history has loss = 10+, expected a finite number", id="beyond-a-float"),
            ("accuracy", True, "history has accuracy = True, expected a finite number"),
            ("seconds", "4", "history has seconds = '4', expected a finite number"),
            ("p", -math.inf, "history has p = -inf, expected a finite number"),
            ("colour", 1.0, r"history has a row of \['accuracy', 'colour', .*\], expected \['accuracy', 'epoch', "),
        ],
    )
    def test_a_bad_row_of_the_history_is_refused(self, make_run: Run, name: str, value: Any, sentence: str) -> None:
        record = make_run()[0]
        *rows, last = record.history
        with pytest.raises(ValueError, match=sentence):
            dataclasses.replace(record, history=[*rows, last | {name: value}])

    def test_a_row_without_its_seconds_is_refused(self, make_run: Run) -> None:
        record = make_run()[0]
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in record.history]
        with pytest.raises(ValueError, match=r"history has a row of .*'p'\], expected .*'seconds'\]"):
            dataclasses.replace(record, history=rows)

    @pytest.mark.parametrize(
        "changes",
        [
            {"clean": 3.0},
            {"clean": True},
            {"seed": "0"},
            {"recipe": "mnist/linf-dist-net"},
            {"certified": {"margin": 3.0, "interval": 3}},
            {"versions": {"torch": 2}},
            {"dirty": "no"},
            {"device": None},
        ],
    )
    def test_wrong_types_are_refused(self, make_run: Run, changes: dict[str, Any]) -> None:
        with pytest.raises(TypeError, match=f"{next(iter(changes))} is .*, expected"):
            dataclasses.replace(make_run()[0], **changes)

    def test_every_field_is_of_the_type_that_it_is_declared_with(self, make_run: Run) -> None:
        record = make_run()[0]
        for field in dataclasses.fields(Record):
            with pytest.raises((TypeError, ValueError), match=f"^{field.name} is <object .*, expected "):
                dataclasses.replace(record, **{field.name: object()})
        with pytest.raises(TypeError, match=r"^dirty is 'no', expected bool or NoneType$"):
            dataclasses.replace(record, dirty="no")  # type: ignore[arg-type]

    def test_columns_of_different_length_are_refused(self, make_run: Run) -> None:
        table = make_run()[1]
        with pytest.raises(ValueError, match=r"robust has shape \[199\], expected \[200\]"):
            dataclasses.replace(table, robust=table.robust[1:])
        with pytest.raises(ValueError, match=r"survived has shape \[200, 4\], expected \[200, 5\]"):
            dataclasses.replace(table, survived=table.survived[:, 1:])

    @pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.5, np.inf])
    def test_radii_outside_0_to_1_are_refused(self, make_run: Run, wrong: float) -> None:
        table = make_run()[1]
        for name in ("radius", "radii"):
            with pytest.raises(ValueError, match=f"{name} holds {wrong}, expected radii in pixels from 0 to 1"):
                dataclasses.replace(table, **{name: np.full_like(getattr(table, name), wrong)})

    def test_more_images_than_the_limit_are_refused(self, make_run: Run) -> None:
        with pytest.raises(ValueError, match="n is 200, expected at least one image and at most test_limit = 100"):
            make_run(test_limit=100)


class TestSubset:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({}, ""),
            ({"test_limit": 200}, "200 test images"),
            ({"train_limit": 1000}, "1,000 training images"),
            ({"train_limit": 1000, "test_limit": 200}, "1,000 training images, 200 test images"),
            ({"validation": True}, "200 validation images"),
        ],
    )
    def test_says_what_was_left_out(self, make_run: Run, changes: dict[str, Any], words: str) -> None:
        assert make_run(**changes)[0].subset == words


class TestDamagedFiles:
    @pytest.fixture
    def path(self, tmp_path: Path, make_run: Run) -> Path:
        return ledger.write(*make_run(), tmp_path)

    def rewrite(self, path: Path, **changes: Any) -> None:
        keys = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in keys.items() if value != "gone"}))

    def test_missing_record(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"record .*none.json does not exist"):
            ledger.read(tmp_path / "none.json")

    def test_truncated_record(self, path: Path) -> None:
        path.write_text(path.read_text()[:100])
        with pytest.raises(ValueError, match=r"laptop-0.json is no whole record, expected JSON"):
            ledger.read(path)

    @pytest.mark.parametrize("text", ["[]", "{}", '{"schema": "1"}'])
    def test_foreign_json(self, path: Path, text: str) -> None:
        path.write_text(text)
        with pytest.raises(ValueError, match="is no record, expected a JSON object with a schema number"):
            ledger.read(path)

    @pytest.mark.parametrize(("schema", "word"), [(SCHEMA - 1, "older"), (SCHEMA + 1, "newer")])
    def test_other_schema(self, path: Path, schema: int, word: str) -> None:
        self.rewrite(path, schema=schema, clean="gone")
        with pytest.raises(
            ValueError, match=rf"laptop-0.json: schema is {schema}, expected {SCHEMA}: .* {word} version"
        ):
            ledger.read(path)

    def test_missing_and_unknown_keys(self, path: Path) -> None:
        self.rewrite(path, clean="gone", extra=1)
        with pytest.raises(ValueError, match=r"lacks \['clean'\] and has unknown \['extra'\]"):
            ledger.read(path)

    @pytest.mark.parametrize(
        "changes", [{"recipe": "x"}, {"recipe": {"width": 3}}, {"history": {}}, {"history": [3]}, {"certified": {}}]
    )
    def test_broken_values(self, path: Path, changes: dict[str, Any]) -> None:
        self.rewrite(path, **changes)
        with pytest.raises(ValueError, match=r"laptop-0.json: "):
            ledger.read(path)

    def test_missing_table(self, path: Path) -> None:
        path.with_suffix(".npz").unlink()
        with pytest.raises(FileNotFoundError, match=r"laptop-0.npz does not exist, expected it beside its record"):
            ledger.read_table(path)

    @pytest.mark.parametrize("keep", [0, 10, 900])
    def test_truncated_table(self, path: Path, keep: int) -> None:
        data = path.with_suffix(".npz")
        data.write_bytes(data.read_bytes()[:keep])
        with pytest.raises(ValueError, match=r"laptop-0.npz is no whole table"):
            ledger.read_table(path)

    def test_damaged_table(self, path: Path) -> None:
        data, table = path.with_suffix(".npz"), ledger.read_table(path)
        whole = data.read_bytes()
        for place in range(0, len(whole), 7):
            data.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
            with contextlib.suppress(ValueError):  # in a time stamp it does no harm
                assert_same(ledger.read_table(path), table)

    def test_table_without_a_column(self, path: Path) -> None:
        np.savez_compressed(path.with_suffix(".npz"), label=np.zeros(3))
        with pytest.raises(ValueError, match="lacks the columns prediction"):
            ledger.read_table(path)

    def test_pickled_objects_are_not_loaded(self, path: Path) -> None:
        np.savez_compressed(path.with_suffix(".npz"), label=np.array([{}], dtype=object))
        with pytest.raises(ValueError, match="is no whole table"):
            ledger.read_table(path)

    def test_table_of_another_run(self, path: Path, tmp_path: Path, make_run: Run) -> None:
        other = ledger.write(*make_run(seed=1), tmp_path)
        other.with_suffix(".npz").replace(path.with_suffix(".npz"))
        with pytest.raises(ValueError, match="the table counts"):
            ledger.read_table(path)


class TestProvenance:
    @pytest.fixture
    def checkout(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib/code.py").write_text("x = 1\n")
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
            subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
        return tmp_path

    def test_clean_checkout(self, checkout: Path) -> None:
        head, dirty = provenance.commit(checkout)
        assert (len(head), dirty) == (40, False)

    def test_changed_and_new_code_is_dirty(self, checkout: Path) -> None:
        (checkout / "results").mkdir()
        (checkout / "results/new.json").write_text("{}")
        assert provenance.commit(checkout)[1] is False
        (checkout / "lib/new.py").write_text("")
        assert provenance.commit(checkout)[1] is True

    def test_a_folder_inside_another_repository_is_not_that_repository(
        self, checkout: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LINF_COMMIT", "abc")
        assert provenance.commit(checkout / "lib") == ("abc", None)

    @pytest.mark.parametrize("missing", ["git", "repository"])
    def test_unknown_is_said_in_a_warning(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
        monkeypatch.delenv("LINF_COMMIT", raising=False)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        if missing == "git":
            monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.warns(UserWarning, match="the commit of .* is unknown, expected a git checkout or LINF_COMMIT"):
            assert provenance.commit(tmp_path) == ("unknown", None)

    def test_versions_name_python_and_what_is_installed(self) -> None:
        found = provenance.versions()
        assert {"python", "numpy", "torch", "numba", "lightning", "foolbox", "safetensors"} <= found.keys()
        assert {"torchvision", "scikit-learn"} <= found.keys()
        assert found["numpy"] == np.__version__


def test_record_is_a_value(make_run: Run) -> None:
    record: Record = make_run()[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.n = 3  # type: ignore[misc]
