"""A run that differs only in its evaluation takes the net of an earlier one over; any other trains its own."""

import os
from pathlib import Path
from typing import Any

import pytest

import lib
from lib.experiments import ledger, provenance
from lib.recipes import load
from lib.training import data
from lib.training.endings import Unfinished

SMALL = {"width": 8, "epochs_ramp": 1, "epochs_inf": 1, "train_limit": 300, "test_limit": 40}


def smoke(results: Path, **options: Any) -> lib.Record:
    options = SMALL | {"progress": False, "budget": "smoke"} | options
    return lib.run("digits/linf-dist-net", device="cpu", results=results, **options)


@pytest.fixture(autouse=True)
def code(monkeypatch: pytest.MonkeyPatch) -> None:
    commit(monkeypatch, ("a" * 40, False))


def commit(monkeypatch: pytest.MonkeyPatch, code: tuple[str, bool | None]) -> None:
    monkeypatch.setattr(provenance, "commit", lambda: code)


def trains(results: Path, **options: Any) -> bool:
    """Whether a run with so little time stops in its training."""
    try:
        smoke(results, max_minutes=1e-6, **options)
    except Unfinished:
        return True
    return False


@pytest.mark.parametrize("changed", [{"eps_test": 0.03}, {"pgd_steps": 3}, {"test_limit": 30, "eps_test": "8/255"}])
def test_what_is_only_evaluated_otherwise_is_the_row_of_a_training_of_its_own(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    first = smoke(tmp_path / "both")
    assert not trains(tmp_path / "both", **changed)
    own = smoke(tmp_path / "alone", **changed)
    path, alone = ledger.path_of(tmp_path / "both", own), ledger.path_of(tmp_path / "alone", own)
    record = ledger.read(path)
    for name in ("recipe", "overrides", "commit", "dirty", "n", "clean", "robust", "robust_strong", "certified", "eps"):
        assert getattr(record, name) == getattr(own, name), name
    assert record.history == first.history and record.seconds_train == first.seconds_train
    for suffix in (".npz", ".safetensors"):
        assert path.with_suffix(suffix).read_bytes() == alone.with_suffix(suffix).read_bytes()
    assert not [file for file in path.parent.iterdir() if file.name.startswith(".")]


def test_says_whose_net_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ledger.path_of(tmp_path, smoke(tmp_path))
    smoke(tmp_path, eps_test=0.03, progress=True)
    assert f"{path} has trained this net already" in capsys.readouterr().err
    smoke(tmp_path, eps_test=0.04)
    assert capsys.readouterr() == ("", "")


def test_a_run_made_again_trains_again(tmp_path: Path) -> None:
    smoke(tmp_path)
    assert trains(tmp_path)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"width": 17}, {"theta": 0.3}, {"train_limit": 250}])
def test_another_training_is_no_twin(changed: dict[str, Any], tmp_path: Path) -> None:
    smoke(tmp_path)
    assert trains(tmp_path, eps_test=0.03, **changed)


def test_another_budget_trains_its_own_though_its_recipe_is_the_same(tmp_path: Path) -> None:
    first = smoke(tmp_path)
    fields = {name: value for name, value in first.recipe.as_dict().items() if name != "name"}
    assert load("digits/linf-dist-net", "quick").replace(**fields) == first.recipe
    assert trains(tmp_path, budget="quick", **fields)


@pytest.mark.parametrize("dirty", [True, None])
def test_what_no_commit_says_is_nobodys_twin_though_it_says_the_same(
    dirty: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(monkeypatch, ("a" * 40, dirty))
    smoke(tmp_path)
    assert trains(tmp_path, eps_test=0.03)


def test_another_device_trains_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke(tmp_path)
    monkeypatch.setattr("lib.experiments.run._words", lambda *_: "another device")
    assert trains(tmp_path, eps_test=0.03)


def test_of_several_machines_none_takes_a_net_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as many ranks on one machine
    monkeypatch.setattr("lib.experiments.run._words", lambda *_: "2 x CPU")
    smoke(tmp_path)
    for name, value in {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)

    def begin(*_: Any, num_nodes: int, **__: Any) -> None:
        raise Unfinished(0, num_nodes)

    # the others would wait for this one
    monkeypatch.setattr("lib.experiments.run.fit", begin)
    assert trains(tmp_path, eps_test=0.03, num_nodes=2)


@pytest.mark.parametrize("then", [("b" * 40, False), ("a" * 40, True), ("a" * 40, None)])
def test_other_code_trains_its_own(
    then: tuple[str, bool | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke(tmp_path)
    commit(monkeypatch, then)
    assert trains(tmp_path, eps_test=0.03)


def test_images_that_no_digest_verifies_are_trained_on_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data._COUNTS, "digits", (1437, 360))
    smoke(tmp_path)
    assert trains(tmp_path, eps_test=0.03)


def test_a_net_of_changed_code_is_nobodys_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(monkeypatch, ("a" * 40, True))
    smoke(tmp_path)
    commit(monkeypatch, ("a" * 40, False))
    assert trains(tmp_path, eps_test=0.03)


def test_other_versions_train_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke(tmp_path)
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "0.1"})
    assert trains(tmp_path, eps_test=0.03)


def test_weights_that_are_gone_are_trained_again(tmp_path: Path) -> None:
    ledger.path_of(tmp_path, smoke(tmp_path)).with_suffix(".safetensors").unlink()
    assert trains(tmp_path, eps_test=0.03)


def test_weights_that_are_damaged_are_in_nobodys_way(tmp_path: Path) -> None:
    path = ledger.path_of(tmp_path, smoke(tmp_path)).with_suffix(".safetensors")
    os.truncate(path, 1000)
    assert trains(tmp_path, eps_test=0.03)


def test_behind_damaged_weights_others_are_found(tmp_path: Path) -> None:
    for eps in (0.1, 0.03):
        smoke(tmp_path, eps_test=eps)
    first, _ = sorted(tmp_path.rglob("*.safetensors"))
    os.truncate(first, 1000)
    assert not trains(tmp_path, eps_test=0.05)


def test_a_record_that_cannot_be_read_is_in_nobodys_way(tmp_path: Path) -> None:
    ledger.path_of(tmp_path, smoke(tmp_path)).write_text('{"schema": 0}')
    assert trains(tmp_path, eps_test=0.03)
