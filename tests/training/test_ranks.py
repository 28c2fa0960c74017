"""Several processes: the same training, refused where it would be another, ended together, gone on with."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies.launchers import multiprocessing
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException

from lib.__main__ import STOPPED, main
from lib.training.callbacks import History
from lib.training.checkpoint import read_checkpoint
from lib.training.endings import TERMINATED, Diverged
from lib.training.fit import _trainer
from lib.training.ranks import Machines, SpawnedDDP, check_ranks, node_rank, passing_on
from tests.training.test_fit import CLIPPED, COMPOSITE, PLAIN, SORTED, state, tiny, train

ROOT = Path(__file__).resolve().parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class TestTheSameRun:
    def test_two_processes_take_the_step_of_one(self, tmp_path: Path) -> None:
        recipe = tiny(batch_size=49, train_limit=49, epochs_ramp=0, epochs_inf=0)
        one, history = train(recipe, tmp_path / "one")
        two, shared = train(recipe, tmp_path / "two", devices=2)
        torch.testing.assert_close(state(two), state(one), rtol=0, atol=1e-4)
        # a step of Adam hides the scale of a gradient, its first moment does not
        for ours, theirs in zip(self.moments(tmp_path / "two"), self.moments(tmp_path / "one"), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)
        assert shared[0]["loss"] == pytest.approx(history[0]["loss"], rel=1e-5)
        assert shared[0]["accuracy"] == history[0]["accuracy"]

    @pytest.mark.parametrize("name", [COMPOSITE, CLIPPED])
    def test_two_processes_train_the_row_to_its_end(self, name: str, tmp_path: Path) -> None:
        # the last of an epoch's three batches has one image: the second rank goes without
        recipe = tiny(name, train_limit=33)
        _, history = train(recipe, tmp_path / "one")
        _, shared = train(recipe, tmp_path / "two", devices=2)
        assert [row["p"] for row in shared] == [row["p"] for row in history]
        assert [row["loss"] for row in shared] == pytest.approx([row["loss"] for row in history], rel=1e-2)

    @pytest.mark.parametrize(("first", "tally"), [(True, [3.0, 2.0]), (False, [0.0, 0.0])])
    def test_only_the_first_goes_on_with_the_sums_of_all(
        self, first: bool, tally: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history, trainer = History(tiny(), 50, 4, tmp_path / "history.csv"), _trainer("cpu", 1, 1, 12, [], tmp_path)
        monkeypatch.setattr(L.Trainer, "is_global_zero", first)
        history.on_load_checkpoint(trainer, L.LightningModule(), {"history": [], "tally": [3.0, 2.0], "seconds": 1.0})
        assert history.tally.tolist() == tally

    @pytest.mark.parametrize("split", [{"devices": 2}, {"num_nodes": 2}])
    def test_sortnet_is_refused_since_what_it_leaves_out_would_depend_on_them(
        self, split: dict[str, int], tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=r"devices and num_nodes are . and ., expected 1 and 1 for model sortnet"):
            train(tiny(SORTED), tmp_path / "new", **split)
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("split", [(3, 1), (1, 3), (2, 2)])
    def test_more_of_them_than_images_of_a_batch_are_refused(self, split: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=r"devices and num_nodes are . and ., expected .*: batch_size is 2$"):
            check_ranks(tiny(batch_size=2), CPU, *split)
        check_ranks(tiny(batch_size=2), CPU, 2, 1)

    def test_more_of_them_than_gpus_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(ValueError, match="devices is 3, expected at most 2, the CUDA devices here"):
            check_ranks(tiny(), CUDA, 3, 1)
        check_ranks(tiny(), CUDA, 2, 1)
        check_ranks(tiny(), CPU, 3, 1)

    def test_a_divergence_is_one_sentence_from_them_too(self, tmp_path: Path) -> None:
        recipe = tiny(lr=1e38, epochs_ramp=0, epochs_inf=0)
        with pytest.raises(Diverged, match=rf"^{PLAIN} diverged: the loss of epoch 0 is [a-z]+, expected [a-z ]+$"):
            train(recipe, tmp_path, devices=2)

    @pytest.mark.parametrize("devices", [1, 2])
    def test_a_cluster_around_a_single_machine_is_not_asked(
        self, devices: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "job", "SLURM_PROCID": "1", "SLURM_NODELIST": "host7"}
        for name, value in {**cluster, "NODE_RANK": "1", "MASTER_ADDR": "host7", "RANK": "1"}.items():
            monkeypatch.setenv(name, value)
        trainer = _trainer("cpu", devices, 1, 12, [], tmp_path)
        assert trainer.is_global_zero
        if isinstance(trainer.strategy, SpawnedDDP):
            environment = trainer.strategy.cluster_environment
            assert environment is not None and (environment.node_rank(), environment.main_address) == (0, "127.0.0.1")

    def test_a_machine_among_several_is_told_which_one_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NODE_RANK", raising=False)
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", "29500")
        check_ranks(tiny(), CPU, 1, 1)
        with pytest.raises(ValueError, match="num_nodes is 2 and NODE_RANK not set, expected"):
            check_ranks(tiny(), CPU, 1, 2)
        for node in ("2", "-1", "first"):
            monkeypatch.setenv("NODE_RANK", node)
            with pytest.raises(ValueError, match=f"NODE_RANK is '{node}', expected a whole number from 0 to 1"):
                check_ranks(tiny(), CPU, 1, 2)
        monkeypatch.setenv("NODE_RANK", "1")
        for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")):
            monkeypatch.setenv(name, "")
            with pytest.raises(ValueError, match=f"num_nodes is 2 and {name} not set, expected"):
                check_ranks(tiny(), CPU, 1, 2)
            monkeypatch.setenv(name, value)
        check_ranks(tiny(), CPU, 1, 2)
        assert (node_rank(1), node_rank(2)) == (0, 1)

    def test_machines_meet_at_the_address_of_the_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MASTER_ADDR", "host7")
        monkeypatch.setenv("NODE_RANK", "1")
        several = Machines(2)
        assert (several.node_rank(), several.main_address) == (1, "host7")

    @staticmethod
    def moments(workdir: Path) -> list[Tensor]:
        (optimizer,) = read_checkpoint(workdir / "last.ckpt")["optimizer_states"]
        return [parameter["exp_avg"] for parameter in optimizer["state"].values()]


class TestAskedToEnd:
    WORDS = ("run", PLAIN, "--budget", "smoke", "--device", "cpu", "--devices", "2", "--set", "epochs_const=400")

    @pytest.fixture
    def running(self, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
        """Two ranks some epochs into a long training, in a group of their own, with Ctrl-C ignored as behind `&`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "lib", *self.WORDS, "--set", "width=8", "--results", str(tmp_path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
        await_true(lambda: any(tmp_path.rglob("history.csv")))
        yield process
        if alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    @pytest.mark.parametrize("kill", [os.kill, os.killpg])
    def test_all_ranks_save_and_stop_at_one_step(
        self, kill: Callable[[int, int], None], running: subprocess.Popen[str], tmp_path: Path
    ) -> None:
        kill(running.pid, signal.SIGTERM)
        assert running.wait(60) == TERMINATED
        assert running.stderr is not None and running.stderr.read() == "stopped; the same call goes on\n"
        assert not alive(running.pid)
        (checkpoint,) = tmp_path.rglob("last.ckpt")
        step = read_checkpoint(checkpoint)["global_step"]
        words = [*self.WORDS, "--set", "width=8", "--results", str(tmp_path), "--max-minutes", "1e-6"]
        assert main(words) == STOPPED
        assert step < read_checkpoint(checkpoint)["global_step"] <= step + 10

    def test_ranks_that_are_only_starting_are_asked_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def start(*arguments: Any, **options: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return start_processes(*arguments, **options)

        start_processes = multiprocessing.mp.start_processes
        monkeypatch.setattr(multiprocessing.mp, "start_processes", start)
        with pytest.raises(SystemExit) as stop:
            train(tiny(), tmp_path, devices=2)
        assert stop.value.code == TERMINATED
        assert not (tmp_path / "last.ckpt").exists()

    def test_a_rank_that_dies_unasked_is_an_error_and_handlers_come_back(self, tmp_path: Path) -> None:
        before = signal.getsignal(signal.SIGTERM)
        trainer = _trainer("cpu", 2, 1, 12, [], tmp_path)
        with passing_on(trainer):
            assert signal.getsignal(signal.SIGTERM) is not before
        assert signal.getsignal(signal.SIGTERM) is before
        killed = ProcessExitedException("killed", error_index=0, error_pid=1, exit_code=-9, signal_name="SIGKILL")
        with pytest.raises(ProcessExitedException, match=r"^killed$"), passing_on(trainer):
            raise killed
        assert signal.getsignal(signal.SIGTERM) is before

    def test_beside_the_main_thread_where_no_signal_is_handled_ranks_are_spawned_too(self, tmp_path: Path) -> None:
        def spawn() -> None:
            with passing_on(_trainer("cpu", 2, 1, 12, [], tmp_path)):
                spawned.append(threading.current_thread())

        spawned: list[threading.Thread] = []
        thread = threading.Thread(target=spawn)
        thread.start()
        thread.join()
        assert spawned == [thread]

    def test_ranks_do_not_outlive_a_parent_that_is_killed(self, running: subprocess.Popen[str]) -> None:
        running.kill()
        running.wait(60)
        await_true(lambda: not alive(running.pid))


def await_true(holds: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def alive(group: int) -> list[str]:
    """The processes of a group that are not only waiting to be buried."""
    done = subprocess.run(["ps", "-eo", "pgid=,stat=,pid="], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if re.match(rf" *{group} +[^Z]", line)]
