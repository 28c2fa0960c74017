"""A row end to end on real digits: from recipe to record, again to the same record, and refusals before any work."""

import dataclasses
import errno
import fcntl
import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import lib
from lib.experiments import ledger, report
from lib.experiments.evaluate import CURVE, curve_radii
from lib.experiments.run import _alone_in, _credited, _words
from lib.nets.models import build
from lib.recipes import load
from lib.training.checkpoint import UNKNOWN, Origin
from lib.training.endings import Unfinished

PLAIN, COMPOSITE = "digits/linf-dist-net", "digits/linf-dist-net-mlp"
ROOT = Path(__file__).resolve().parents[2]


def smoke(recipe: str, results: Path, **options: Any) -> lib.Record:
    return lib.run(recipe, budget="smoke", device="cpu", progress=False, results=results, **options)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module", params=[PLAIN, COMPOSITE])
def record(request: pytest.FixtureRequest, results: Path) -> lib.Record:
    return smoke(request.param, results)


class TestARow:
    def test_is_written_as_it_is_returned(self, record: lib.Record, results: Path) -> None:
        assert ledger.read(ledger.path_of(results, record)) == record
        assert record.n == 360
        assert len(record.history) == record.recipe.epochs
        assert record.peak_memory > 2**26  # bytes: torch alone takes more
        assert record.seconds_train == sum(row["seconds"] for row in record.history) > 0 < record.seconds_evaluate

    def test_learned_something_and_proved_something(self, record: lib.Record) -> None:
        assert record.clean > 0.4 * record.n
        assert max(record.certified.values()) > 0

    def test_has_a_table_of_every_image(self, record: lib.Record, results: Path) -> None:
        table = ledger.read_table(ledger.path_of(results, record))
        assert np.allclose(table.radii, np.array(CURVE) * record.eps)
        assert table.survived.shape == (record.n, len(CURVE))
        assert (table.survived[:, CURVE.index(1.0)] == table.robust).all()

    def test_keeps_the_net_which_reproduces_the_row(self, record: lib.Record, results: Path) -> None:
        net = lib.load(ledger.path_of(results, record).with_suffix(".safetensors"))
        table = ledger.read_table(ledger.path_of(results, record))
        data = lib_data(record)
        for method, verdicts in table.certified.items():
            again = lib.certify(net, *data, record.eps, method)
            assert (again.certified.numpy() == verdicts).all()
            assert (again.correct.numpy() == table.clean).all()

    def test_leaves_no_work_behind(self, record: lib.Record, results: Path) -> None:
        stem = ledger.path_of(results, record).stem
        names = {path.name for path in ledger.path_of(results, record).parent.iterdir()}
        assert {f"{stem}.json", f"{stem}.npz", f"{stem}.safetensors"} <= names
        assert not [name for name in names if name.startswith(".")]


def lib_data(record: lib.Record) -> tuple[torch.Tensor, torch.Tensor]:
    from lib.training.data import batch, load_data

    images = load_data(record.recipe).test
    return batch(images, torch.arange(len(images))), images.labels


def counts(record: lib.Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("clean", "robust", "robust_strong", "certified", "n")}


@pytest.mark.parametrize("eps", [1e-6, 8 / 255, 0.3, 0.5, 0.7, 0.9995])
def test_the_curve_has_five_different_radii_below_one_around_eps(eps: float) -> None:
    radii = curve_radii(eps)
    assert radii[2] == eps and len(set(radii)) == 5
    assert radii == sorted(radii) and radii[0] > 0 and radii[-1] < 1


def test_a_radius_above_two_thirds_is_evaluated_like_any_other(tmp_path: Path) -> None:
    record = smoke(PLAIN, tmp_path, eps_test=0.7, width=16)
    assert ledger.read_table(ledger.path_of(tmp_path, record)).survived.shape == (record.n, len(CURVE))


def test_the_same_seed_gives_the_same_row_and_another_seed_another_net(tmp_path: Path) -> None:
    first, again, other = (smoke(PLAIN, tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("a", 4)))
    assert counts(first) == counts(again)
    assert [row["loss"] for row in first.history] == [row["loss"] for row in again.history]
    nets = [
        lib.load(ledger.path_of(tmp_path / n, r).with_suffix(".safetensors")) for r, n in ((first, "a"), (again, "b"))
    ]
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert [row["loss"] for row in first.history] != [row["loss"] for row in other.history]


@pytest.mark.parametrize("recipe", [PLAIN, COMPOSITE, "digits/sortnet"])
def test_a_row_does_not_depend_on_the_default_device(recipe: str, tmp_path: Path) -> None:
    small = {"width": 8, "epochs_ramp": 1, "epochs_inf": 1, "train_limit": 300, "test_limit": 40}
    wanted = smoke(recipe, tmp_path / "plain", **small)
    with torch.device("meta"):  # a stand-in for a GPU: what lands there by mistake cannot be read
        found = smoke(recipe, tmp_path / "other", **small)
    assert _weights(tmp_path / "plain") == _weights(tmp_path / "other")
    for name in ("clean", "robust", "robust_strong", "certified"):
        assert getattr(found, name) == getattr(wanted, name), name


def _weights(folder: Path) -> bytes:
    (path,) = folder.rglob("*.safetensors")
    return path.read_bytes()


def test_training_starts_from_the_weights_of_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []

    def begin(net: torch.nn.Module, *_: Any, seed: int, **__: Any) -> None:
        starts.append((seed, [parameter.clone() for parameter in net.parameters()]))
        raise Unfinished(0, 1)

    monkeypatch.setattr("lib.experiments.run.fit", begin)
    for seed in (3, 4):
        with pytest.raises(Unfinished):
            smoke(PLAIN, tmp_path, seed=seed)
    for seed, weights in starts:
        expected = [*build(load(PLAIN, "smoke"), seed).parameters()]
        assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
    assert [seed for seed, _ in starts] == [3, 4] and not torch.equal(starts[0][1][0], starts[1][1][0])


def test_the_attacks_draw_by_the_seed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib.experiments import run as module

    def spy(*arguments: Any, seed: int) -> Any:
        seeds.append(seed)
        return evaluate(*arguments, seed=seed)

    seeds: list[int] = []
    evaluate = module.evaluate
    monkeypatch.setattr(module, "evaluate", spy)
    smoke(PLAIN, tmp_path, seed=3, width=8, test_limit=20, epochs_ramp=0, epochs_inf=0)
    assert seeds == [3]


def test_data_are_read_from_the_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Any, data_root: Any) -> None:
        raise FileNotFoundError(f"looked in {data_root}")

    monkeypatch.setattr("lib.experiments.run.load_data", read)
    with pytest.raises(FileNotFoundError, match=r"^looked in elsewhere$"):
        smoke(PLAIN, tmp_path, data_root="elsewhere")


def test_overrides_are_recorded_and_named_in_the_file(tmp_path: Path) -> None:
    record = smoke(PLAIN, tmp_path, eps_test="8/255", width=16, epochs_inf=1)
    assert record.eps == 8 / 255 and record.recipe.width == 16
    assert set(record.overrides) == {"eps_test", "width"}
    assert ledger.path_of(tmp_path, record).stem.startswith("smoke-0-")


def test_an_override_with_the_recipes_own_value_is_none(tmp_path: Path) -> None:
    record = smoke(PLAIN, tmp_path, eps_test="0.1")
    assert record.overrides == {} and ledger.path_of(tmp_path, record).stem == "smoke-0"


def test_a_launchers_rank_does_not_lose_the_record_of_a_single_machine(tmp_path: Path) -> None:
    # read when Lightning is first imported, hence in a new process
    words = ["digits/linf-dist-net", "--budget", "smoke", "--device", "cpu", "--set", "width=8", "--results"]
    command = [sys.executable, "-m", "lib", "run", *words, str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | dict.fromkeys(("RANK", "SLURM_PROCID"), "1"), cwd=ROOT)
    assert len(list(ledger.records(tmp_path))) == 1


def test_a_recipe_itself_and_a_folder_that_is_none_are_refused_in_one_sentence(tmp_path: Path) -> None:
    recipe: Any = load(PLAIN, "smoke")
    with pytest.raises(TypeError, match=r"^recipe is of type Recipe, expected a name or a path$"):
        smoke(recipe, tmp_path)
    nowhere: Any = None
    with pytest.raises(ValueError, match=r"^results is None, expected a folder$"):
        smoke(PLAIN, nowhere)


def test_another_recipe_file_of_the_same_name_does_not_replace_a_record(tmp_path: Path) -> None:
    text = f'base = "{PLAIN}"\n[budget.smoke]\nwidth = '
    for folder, width in (("a", 16), ("b", 17)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.toml").write_text(f"{text}{width}\n")
    record = smoke(tmp_path / "a/mine.toml", tmp_path)
    assert smoke(tmp_path / "a/mine.toml", tmp_path).recipe == record.recipe
    with pytest.raises(ValueError, match=r"results is .*mine.toml, expected a folder"):
        smoke(tmp_path / "a/mine.toml", tmp_path / "a/mine.toml")
    with pytest.raises(ValueError, match=r"mine.smoke-0.json is the record of another recipe named mine"):
        smoke(tmp_path / "b/mine.toml", tmp_path)


def test_a_shipped_recipe_that_was_changed_replaces_its_record(
    tmp_path: Path, make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_: Any, **__: Any) -> None:
        raise Unfinished(0, 1)

    record, table = make_run(PLAIN, "smoke")
    ledger.write(dataclasses.replace(record, recipe=record.recipe.replace(theta=0.25)), table, tmp_path)
    monkeypatch.setattr("lib.experiments.run.fit", begin)
    with pytest.raises(Unfinished):
        smoke(PLAIN, tmp_path)


def test_a_run_on_part_of_a_data_set_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.training.data._COUNTS", {"digits": (10_000, 1_000)})
    record = smoke(PLAIN, tmp_path, width=16)
    assert record.subset == "1,437 training images, 360 test images"
    assert ledger.read(ledger.path_of(tmp_path, record)) == record
    assert report.row(record).index[0] == "this run †"


def test_a_run_on_part_of_a_data_set_may_set_its_limits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.training.data._COUNTS", {"digits": (10_000, 1_000)})
    (tmp_path / "mine.toml").write_text(f'base = "{PLAIN}"\n[budget.smoke]\ntrain_limit = 300\ntest_limit = 50\n')
    record = smoke(str(tmp_path / "mine.toml"), tmp_path, train_limit=0, test_limit=0)
    assert record.overrides == {"train_limit": 1437, "test_limit": 360}
    assert ledger.read(ledger.path_of(tmp_path, record)) == record


def test_a_record_and_its_weights_are_replaced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ledger.path_of(tmp_path, smoke(PLAIN, tmp_path, width=16))
    files = [path.with_suffix(suffix) for suffix in (".json", ".npz", ".safetensors")]
    before = [file.read_bytes() for file in files]

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="no space left"):
        smoke(PLAIN, tmp_path, width=16)
    assert [file.read_bytes() for file in files] == before
    assert not list(path.parent.glob("*.tmp"))


def test_numbers_of_numpy_are_whole_numbers(tmp_path: Path) -> None:
    assert smoke(PLAIN, tmp_path, width=16, seed=np.int64(3)).seed == 3


def test_one_process_at_a_time_works_on_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib.experiments import run as module

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        with pytest.raises(ValueError, match=r"another process works in .*\.smoke-0-\w+, expected one at a time"):
            smoke(PLAIN, tmp_path, width=16)
        smoke(PLAIN, tmp_path, width=17, epochs_const=1, epochs_ramp=0, epochs_inf=0)
        return fit(*arguments, **options)

    fit = module.fit
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", lambda *a, **o: (patch.undo(), meanwhile(*a, **o))[1])
        assert smoke(PLAIN, tmp_path, width=16).recipe.width == 16
    assert len(list(ledger.records(tmp_path))) == 2


@pytest.mark.parametrize(
    ("number", "taken"), [(errno.EAGAIN, True), (errno.EACCES, True), (errno.ENOLCK, False), (errno.ENOTSUP, False)]
)
def test_a_file_system_without_locks_is_worked_on_all_the_same(
    number: int, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    began = []
    try:
        with _alone_in(tmp_path / "work"):
            began.append(tmp_path)
    except ValueError as error:
        assert "another process works in" in str(error)
    assert bool(began) is not taken


def test_a_lock_that_a_run_removed_as_it_ended_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock_late(*arguments: Any) -> None:
        (tmp_path / "work/lock").unlink()
        flock(*arguments)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lock_late)
    with pytest.raises(ValueError, match="another process works in"), _alone_in(tmp_path / "work"):
        pass


def test_a_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from lib.experiments.run import _alone_in\n"
        f"with _alone_in(Path({str(tmp_path / 'work')!r})): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="another process works in"), _alone_in(tmp_path / "work"):
            pass
        process.kill()
    with _alone_in(tmp_path / "work"):
        pass


def test_a_run_that_ran_out_of_time_leaves_no_record_and_goes_on_to_the_same_one(tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        smoke(PLAIN, tmp_path / "cut", max_minutes=np.float32(1e-6))
    assert not list((tmp_path / "cut").rglob("*.json"))
    assert counts(smoke(PLAIN, tmp_path / "cut")) == counts(smoke(PLAIN, tmp_path / "whole"))


def test_a_slice_spent_on_training_leaves_the_evaluation_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.experiments.run.SHARE", 0.0)
    with pytest.raises(Unfinished, match="ran out for the evaluation; training is finished; the same call") as stop:
        smoke(PLAIN, tmp_path / "cut", max_minutes=60)
    assert stop.value.step == stop.value.total
    assert not list((tmp_path / "cut").rglob("*.json"))
    assert counts(smoke(PLAIN, tmp_path / "cut", max_minutes=60)) == counts(smoke(PLAIN, tmp_path / "whole"))


def test_training_may_take_half_of_the_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"width": 8, "test_limit": 20, "epochs_ramp": 0, "epochs_inf": 0}
    # between two looks at this clock lie 20 seconds
    clock = SimpleNamespace(perf_counter=itertools.count(0.0, 20.0).__next__)
    monkeypatch.setattr("lib.experiments.run.time", clock)
    for minutes, left in ((1e-6, r"of \d+ training steps"), (0.65, "training is finished")):
        with pytest.raises(Unfinished, match=left):
            smoke(PLAIN, tmp_path / "less", max_minutes=minutes, **small)
    assert smoke(PLAIN, tmp_path / "less", max_minutes=0.65, **small).seconds_evaluate == 20
    assert smoke(PLAIN, tmp_path / "more", max_minutes=0.7, **small).seconds_evaluate == 20


@pytest.mark.parametrize(
    ("first", "then", "dirty"),
    [
        (("a", False), ("a", False), False),
        (("a", None), ("a", None), None),
        (("a", True), ("a", False), True),
        (("a", False), ("b", False), True),
        (("a", None), ("b", None), True),
    ],
)
def test_a_run_that_other_code_began_is_not_credited_to_the_last_commit(
    first: tuple[str, bool | None],
    then: tuple[str, bool | None],
    dirty: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {"width": 8, "test_limit": 20, "epochs_ramp": 0, "epochs_inf": 0}
    monkeypatch.setattr("lib.experiments.provenance.commit", lambda: first)
    with pytest.raises(Unfinished):
        smoke(PLAIN, tmp_path, max_minutes=1e-6, **small)
    monkeypatch.setattr("lib.experiments.provenance.commit", lambda: then)
    record = smoke(PLAIN, tmp_path, **small)
    assert (record.commit, record.dirty) == (then[0], dirty)


def test_a_run_that_moved_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"width": 8, "test_limit": 20, "epochs_ramp": 0, "epochs_inf": 0}
    monkeypatch.setattr("lib.experiments.provenance.commit", lambda: ("a", False))
    for place, versions in (("one GPU", "2.11"), ("another", "2.11"), ("another", "2.12")):
        monkeypatch.setattr("lib.experiments.run._words", lambda *_, place=place: place)
        monkeypatch.setattr("lib.experiments.provenance.versions", lambda versions=versions: {"torch": versions})
        with pytest.raises(Unfinished):
            smoke(PLAIN, tmp_path / versions, max_minutes=1e-6, **small)
    record = smoke(PLAIN, tmp_path / "2.11", **small)
    assert record.device == "one GPU, then another"
    assert record.versions == {"torch": "2.12"} and record.dirty is True
    record = smoke(PLAIN, tmp_path / "2.12", **small)
    assert record.device == "another" and record.dirty is False


def test_who_only_evaluates_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"width": 8, "test_limit": 20, "epochs_ramp": 0, "epochs_inf": 0}
    monkeypatch.setattr("lib.experiments.run._words", lambda *_: "one GPU")
    monkeypatch.setattr("lib.experiments.run.SHARE", 0.0)
    with pytest.raises(Unfinished, match="training is finished"):
        smoke(PLAIN, tmp_path, max_minutes=60, **small)
    monkeypatch.setattr("lib.experiments.run._words", lambda *_: "another")
    assert smoke(PLAIN, tmp_path, **small).device == "one GPU, then another"


def test_a_run_that_an_older_version_began_is_credited_to_nobody() -> None:
    last = Origin("a", False, {"torch": "2.11"}, "one GPU")
    assert _credited([UNKNOWN, last]) == last._asdict() | {"dirty": True}


def test_the_device_says_how_many_there_were() -> None:
    assert _words(torch.device("cpu"), 4) == f"4 x {_words(torch.device('cpu'), 1)}"


@pytest.mark.parametrize(("devices", "num_nodes"), [(2, 1), (1, 2), (2, 2)])
def test_all_ranks_of_all_machines_are_counted(
    devices: int, num_nodes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_: Any, origin: Origin, **__: Any) -> None:
        assert origin.device == _words(torch.device("cpu"), devices * num_nodes)
        raise Unfinished(0, 1)

    for name, value in {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lib.experiments.run.fit", begin)
    with pytest.raises(Unfinished):
        smoke(PLAIN, tmp_path, devices=devices, num_nodes=num_nodes)


@pytest.mark.parametrize(("threads", "words"), [(1, "1 thread"), (2, "2 threads")])
def test_the_device_says_how_many_threads_it_had(threads: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert _words(torch.device("cpu"), 1) == f"CPU ({platform.machine()}), {words}"


def test_a_run_whose_evaluation_fails_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib.experiments import run as module

    def break_a_promise(*arguments: Any, **options: Any) -> Any:
        table = evaluate(*arguments, **options)
        certified = {method: np.ones_like(verdicts) for method, verdicts in table.certified.items()}
        return dataclasses.replace(table, certified=certified)

    evaluate = module.evaluate
    monkeypatch.setattr(module, "evaluate", break_a_promise)
    with pytest.raises(ValueError, match="expected"):
        smoke(PLAIN, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".npz", ".safetensors")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"recipe": "digits/nothing"}, "digits/nothing"),
        ({"budget": "huge"}, "huge"),
        ({"seed": -1}, "seed is -1, expected a whole number of at least 0"),
        ({"seed": 1.5}, r"seed is 1\.5"),
        ({"device": "tpu"}, "device is 'tpu', expected one of auto, cpu, cuda"),
        ({"devices": 0}, "devices is 0"),
        ({"num_nodes": 0}, "num_nodes is 0"),
        ({"max_minutes": 0}, "max_minutes is 0"),
        ({"max_minutes": float("nan")}, "max_minutes is nan"),
        ({"max_minutes": True}, "max_minutes is True, expected a positive number or None"),
        ({"eps_test": 1.5}, r"eps_test is 1\.5"),
        ({"eps_test": float("nan")}, "eps_test is nan"),
        ({"widht": 4}, "widht"),
        ({"name": "elsewhere/x"}, "name is 'elsewhere/x', expected no override"),
        ({"recipe": "digits/sortnet", "devices": 2}, "devices and num_nodes are 2 and 1, expected 1 and 1"),
        ({"devices": 10_000}, "devices and num_nodes are 10000 and 1, expected together at most one for each image"),
        ({"num_nodes": 2}, "num_nodes is 2 and NODE_RANK, MASTER_ADDR, MASTER_PORT not set"),
    ],
)
def test_bad_input_is_refused_by_name_before_work_starts(
    options: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.experiments.run.load_data", lambda *_: pytest.fail("work started"))
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises((ValueError, TypeError), match=sentence):
        lib.run(**({"recipe": PLAIN, "budget": "smoke", "results": tmp_path} | options))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_cuda_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device is 'cuda', but torch sees no CUDA device here"):
        lib.run(PLAIN, budget="smoke", device="cuda", results=tmp_path)
