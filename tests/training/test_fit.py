"""Training: a run is a function of recipe and seed, whatever interrupts it and however many ranks share it."""

import csv
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from torch import Tensor

import lib.ops
from lib.nets.box import Box
from lib.nets.models import Net, build
from lib.ops import reference
from lib.recipes import Recipe, load
from lib.training import callbacks
from lib.training.checkpoint import read_checkpoint
from lib.training.data import batch, load_data
from lib.training.datasets import Images
from lib.training.draws import augment, epoch_order, step_generator
from lib.training.endings import TERMINATED, Diverged, Unfinished
from lib.training.fit import _Training, fit
from lib.training.losses import clipped_hinge_loss, hinge_loss, ibp_loss
from lib.training.optim import AdamLp
from lib.training.schedules import knobs_at

PLAIN, COMPOSITE = "digits/linf-dist-net", "digits/linf-dist-net-mlp"
CLIPPED, SORTED = "digits/linf-dist-net-v2", "digits/sortnet"
RELU, PIXELS = "mnist/ibp", ("dataset", "input_shape", "mean", "std")
ROOT = Path(__file__).resolve().parents[2]


def tiny(name: str = PLAIN, **changes: Any) -> Recipe:
    """Three epochs, p = 8, 16 then inf, and four steps an epoch of which the last has two images."""
    sizes = {"width": 12, "depth": 2, "train_limit": 50, "batch_size": 16, "p_end": 16, "p_ladder": False}
    if name == COMPOSITE:
        sizes |= {"hidden": 8, "eps_warmup_epochs": 1}
    if name == RELU:
        sizes |= {"width": 3, "depth": 4, "hidden": 8, "eps_warmup_epochs": 1, "p_end": 1}
        sizes |= {name: value for name, value in load(PLAIN, "smoke").as_dict().items() if name in PIXELS}
    return load(name, "smoke").replace(**sizes | changes)


def images(recipe: Recipe) -> Images:
    return load_data(recipe).train


def train(recipe: Recipe, workdir: Path, *, net: Net | None = None, **options: Any) -> tuple[Net, list[dict[str, Any]]]:
    net = net or build(recipe, seed=0)
    options = {"seed": 0, "device": "cpu", "progress": False} | options
    return net, fit(net, recipe, images(recipe), workdir=workdir, **options)


def state(net: Net) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def assert_same(ours: Net, theirs: Net) -> None:
    torch.testing.assert_close(state(ours), state(theirs), rtol=0, atol=0)


def without_seconds(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.fixture
def save_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(callbacks, "CHECKPOINT_SHARE", math.inf)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What training sees as time: a step takes four seconds, a checkpoint `writing`; `saved` are the steps of these."""
    clock = SimpleNamespace(now=0.0, writing=0.0, saved=[])
    step, save = _Training.training_step, callbacks.AtomicIO.save_checkpoint

    def training_step(self: _Training, batch: int) -> dict[str, Tensor]:
        clock.now += 4
        return step(self, batch)

    def save_checkpoint(self: callbacks.AtomicIO, checkpoint: dict[str, Any], path: Any, **options: Any) -> None:
        clock.now += clock.writing
        clock.saved.append(checkpoint["global_step"])
        save(self, checkpoint, path, **options)

    monkeypatch.setattr(_Training, "training_step", training_step)
    monkeypatch.setattr(callbacks.AtomicIO, "save_checkpoint", save_checkpoint)
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


class KilledError(Exception):
    pass


def kill_before(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Makes the training fall over at the start of a step, until `monkeypatch` is undone."""
    whole = _Training.training_step

    def training_step(self: _Training, batch: int) -> dict[str, Tensor]:
        if self.global_step == step:
            raise KilledError
        return whole(self, batch)

    monkeypatch.setattr(_Training, "training_step", training_step)


class TestOneStep:
    def first_batch(self, recipe: Recipe) -> tuple[Tensor, Tensor]:
        data = images(recipe)
        order = epoch_order(len(data), 5, 0)
        generator = step_generator(5, 0, 0)
        x = augment(batch(data, order), crop_padding=recipe.crop_padding, flip=recipe.flip, generator=generator)
        return x, data.labels[order]

    def test_the_hinge_sees_theta_in_units_of_the_logits(self, tmp_path: Path) -> None:
        recipe = tiny(batch_size=50, epochs_ramp=0, epochs_inf=0)
        x, y = self.first_batch(recipe)
        assert recipe.theta is not None and recipe.hinge_mix is not None
        logits = build(recipe, seed=0).train()(x, 8.0)
        _, history = train(recipe, tmp_path, seed=5)
        expected = hinge_loss(logits, y, recipe.theta / recipe.std, recipe.hinge_mix)
        assert history[0]["loss"] == pytest.approx(expected.item(), rel=1e-6)
        assert history[0]["accuracy"] == (logits.argmax(1) == y).sum().item() / 50

    def test_the_head_is_trained_on_the_box_around_the_features(self, tmp_path: Path) -> None:
        recipe = tiny(COMPOSITE, batch_size=50, epochs_ramp=0, epochs_inf=0, eps_warmup_epochs=0, kappa_natural=0.25)
        x, y = self.first_batch(recipe)
        assert recipe.eps_train is not None
        net: Any = build(recipe, seed=0).train()
        z, eps = net.features(x, 8.0), recipe.eps_train / recipe.std
        expected = ibp_loss(net.head(z), net.head.ibp_margin(Box(z - eps, z + eps), y), y, 0.25)
        _, history = train(recipe, tmp_path, seed=5)
        assert history[0]["loss"] == pytest.approx(expected.item(), rel=1e-6)

    def test_the_clipped_hinge_sees_theta_in_units_of_the_logits_and_learns_its_scale(self, tmp_path: Path) -> None:
        recipe = tiny(CLIPPED, batch_size=50, epochs_ramp=0, epochs_inf=0)
        x, y = self.first_batch(recipe)
        assert recipe.theta is not None and recipe.ce_weight_start is not None
        logits = build(recipe, seed=0).train()(x, 8.0)
        _, history = train(recipe, tmp_path, seed=5)
        expected = clipped_hinge_loss(logits, y, recipe.theta / recipe.std, recipe.ce_weight_start, torch.ones(()))
        assert history[0]["loss"] == pytest.approx(expected.item(), rel=1e-6)
        scale = read_checkpoint(tmp_path / "last.ckpt")["state_dict"]["objective.logit_scale"]
        assert scale.item() == pytest.approx(1 + recipe.logit_scale_lr, abs=2 * recipe.logit_scale_lr)
        assert scale.item() != 1

    @pytest.mark.parametrize("name", [PLAIN, SORTED])
    def test_every_step_has_its_own_images_changed_by_its_own_draws(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given, share = [], _Training._share

        def spy(self: _Training, epoch: int, place: int, draws: torch.Generator) -> tuple[Tensor, Tensor, int]:
            x, y, size = share(self, epoch, place, draws)
            given.append((x, y, draws.get_state()))
            return x, y, size

        monkeypatch.setattr(_Training, "_share", spy)
        recipe = tiny(name, crop_padding=2, crop_edge=True, flip=True)
        train(recipe, tmp_path, seed=5)
        data, unchanged = images(recipe), 0
        assert len(given) == 12
        for step, (x, y, after) in enumerate(given):
            epoch, place = divmod(step, 4)
            draws, mine = step_generator(5, epoch, place), epoch_order(50, 5, epoch)[16 * place : 16 * place + 16]
            plain = batch(data, mine)
            assert torch.equal(x, augment(plain, crop_padding=2, flip=True, generator=draws, crop_edge=True))
            assert torch.equal(y, data.labels[mine]) and torch.equal(after, draws.get_state())
            unchanged += int((x == plain).flatten(1).all(1).sum())
        assert unchanged < 50

    def test_every_step_sets_the_knobs_of_its_own_progress(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used, step = [], AdamLp.step

        def spy(self: AdamLp, closure: Callable[[], Any] | None = None) -> Any:
            result = step(self, closure)
            used.append({(group["p"], group["lr"]) for group in self.param_groups})
            return result

        monkeypatch.setattr(AdamLp, "step", spy)
        recipe = tiny()
        train(recipe, tmp_path)
        assert used == [{knobs_at(recipe, i / 4)[:2]} for i in range(12)]


class TestARunIsAFunctionOfRecipeAndSeed:
    @pytest.mark.parametrize("name", [PLAIN, COMPOSITE, RELU])
    def test_two_runs_agree_bit_for_bit(self, name: str, tmp_path: Path) -> None:
        recipe = tiny(name)
        first, history = train(recipe, tmp_path / "a")
        second, again = train(recipe, tmp_path / "b")
        assert_same(first, second)
        assert without_seconds(history) == without_seconds(again)

    def test_sortnet_leaves_inputs_out_by_seed_and_step_and_is_centred_as_evaluated(self, tmp_path: Path) -> None:
        recipe = tiny(SORTED, width=40)
        net, _ = train(recipe, tmp_path / "a")
        again, _ = train(recipe, tmp_path / "b")
        assert_same(net, again)
        other, _ = train(recipe, tmp_path / "c", seed=1)
        assert any((state(other)[name] != value).any() for name, value in state(net).items())
        data = images(recipe)
        features = net.features(batch(data, torch.arange(len(data))))
        torch.testing.assert_close(features.mean(0), torch.zeros(40), atol=1e-5, rtol=0)

    def test_a_seed_of_numpy_is_the_same_seed_also_to_the_call_that_goes_on(self, tmp_path: Path) -> None:
        net, history = train(tiny(), tmp_path, seed=np.int64(3))
        again, rows = train(tiny(), tmp_path, seed=3)
        assert_same(again, net)
        assert rows == history

    def test_a_net_in_evaluation_mode_is_trained_like_any_other(self, tmp_path: Path) -> None:
        net, _ = train(tiny(), tmp_path / "a")
        evaluated, _ = train(tiny(), tmp_path / "b", net=build(tiny(), seed=0).eval())
        assert_same(evaluated, net)

    def test_another_seed_gives_another_net(self, tmp_path: Path) -> None:
        first, _ = train(tiny(), tmp_path / "a")
        second, _ = train(tiny(), tmp_path / "b", seed=1)
        assert any((state(first)[name] != value).any() for name, value in state(second).items())

    def test_the_callers_random_numbers_are_left_alone(self, tmp_path: Path) -> None:
        before = torch.get_rng_state()
        train(tiny(epochs_ramp=0, epochs_inf=0), tmp_path)
        torch.testing.assert_close(torch.get_rng_state(), before)

    def test_the_net_comes_back_in_evaluation_mode_and_has_learnt(self, tmp_path: Path) -> None:
        recipe = tiny(train_limit=300, epochs_const=10, epochs_ramp=0, epochs_inf=0, width=64, crop_padding=0)
        net, history = train(recipe, tmp_path)
        assert not any(module.training for module in net.modules())
        assert history[-1]["loss"] < 0.5 * history[0]["loss"]
        assert history[-1]["accuracy"] > 0.8


class TestDevice:
    def test_auto_takes_what_there_is(self, tmp_path: Path) -> None:
        net, _ = train(tiny(epochs_ramp=0, epochs_inf=0), tmp_path, device="auto")
        assert {parameter.device.type for parameter in net.parameters()} == {"cpu"}

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    @pytest.mark.parametrize("name", [PLAIN, COMPOSITE])
    def test_cuda_trains_like_the_cpu(self, name: str, tmp_path: Path) -> None:
        recipe = tiny(name, epochs_ramp=0, epochs_inf=0)
        _, expected = train(recipe, tmp_path / "cpu")
        net, history = train(recipe, tmp_path / "cuda", device="cuda")
        assert history[0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-3)
        assert {parameter.device.type for parameter in net.parameters()} == {"cpu"}


class TestHistory:
    def test_has_one_row_per_epoch_with_the_knobs_of_its_last_step(self, tmp_path: Path) -> None:
        recipe = tiny(COMPOSITE)
        _, history = train(recipe, tmp_path)
        knobs = [knobs_at(recipe, epoch + 3 / 4) for epoch in range(3)]
        assert [row["epoch"] for row in history] == [0, 1, 2]
        assert [(row["p"], row["lr"], row["eps"]) for row in history] == [(k.p, k.lr, k.eps) for k in knobs]
        assert history[-1]["p"] == math.inf
        assert all(row["seconds"] > 0 for row in history)

    def test_is_also_a_csv_file(self, tmp_path: Path) -> None:
        _, history = train(tiny(), tmp_path)
        with (tmp_path / "history.csv").open() as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        assert rows == history
        assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "last.ckpt"}


@pytest.mark.usefixtures("save_every_step")
class TestResume:
    @pytest.mark.parametrize("name", [PLAIN, COMPOSITE, CLIPPED, SORTED, RELU])
    @pytest.mark.parametrize("step", [1, 4, 6, 11], ids="killed before step {}".format)
    def test_a_run_killed_at_any_step_ends_like_an_undisturbed_one(
        self, name: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = tiny(name)
        whole, expected = train(recipe, tmp_path / "whole")
        with monkeypatch.context() as patch:
            kill_before(patch, step)
            with pytest.raises(KilledError):
                train(recipe, tmp_path / "killed")
        resumed, history = train(recipe, tmp_path / "killed", net=build(recipe, seed=99))
        assert_same(resumed, whole)
        assert without_seconds(history) == without_seconds(expected)

    def test_a_run_stopped_after_every_single_step_ends_the_same(self, tmp_path: Path) -> None:
        recipe, stops = tiny(), []
        whole, expected = train(recipe, tmp_path / "whole")
        for call in range(11):
            with pytest.raises(Unfinished, match="of 12 training steps") as stop:
                train(recipe, tmp_path / "stopped", net=build(recipe, seed=call), max_minutes=1e-9)
            stops.append((stop.value.step, stop.value.total))
        last, history = train(recipe, tmp_path / "stopped", max_minutes=1e-9)
        assert stops == [(step, 12) for step in range(1, 12)]
        assert_same(last, whole)
        assert without_seconds(history) == without_seconds(expected)

    def test_a_finished_run_is_not_trained_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, expected = train(tiny(), tmp_path)
        kill_before(monkeypatch, 0)
        again, history = train(tiny(), tmp_path, net=build(tiny(), seed=99))
        assert_same(again, whole)
        assert history == expected

    def test_a_kill_while_saving_leaves_the_checkpoint_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, _ = train(tiny(), tmp_path / "whole")
        save = torch.save

        def save_half(checkpoint: dict[str, Any], stream: BinaryIO) -> None:
            save(checkpoint, stream)
            if checkpoint["global_step"] == 7:
                stream.truncate(1000)
                raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", save_half)
            with pytest.raises(KilledError):
                train(tiny(), tmp_path / "killed")
        assert read_checkpoint(tmp_path / "killed" / "last.ckpt")["global_step"] == 6
        resumed, _ = train(tiny(), tmp_path / "killed")
        assert_same(resumed, whole)

    def test_a_process_killed_outright_goes_on_in_another(self, tmp_path: Path) -> None:
        script = textwrap.dedent(f"""
            import os, signal, sys
            from pathlib import Path
            from lib.training import callbacks
            from lib.training.fit import _Training
            from tests.training.test_fit import tiny, train

            callbacks.CHECKPOINT_SECONDS, callbacks.CHECKPOINT_SHARE = 0.0, float("inf")
            whole = _Training.training_step

            def training_step(self, batch):
                if self.global_step == 6:
                    os.kill(os.getpid(), signal.SIGKILL)
                return whole(self, batch)

            _Training.training_step = training_step
            train(tiny(), Path({str(tmp_path / "killed")!r}))
        """)
        killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=300)
        assert killed.returncode == -signal.SIGKILL
        resumed, history = train(tiny(), tmp_path / "killed")
        whole, expected = train(tiny(), tmp_path / "whole")
        assert_same(resumed, whole)
        assert without_seconds(history) == without_seconds(expected)


class TestTime:
    @pytest.mark.parametrize(
        ("writing", "saved"), [(0.125, [4, 8, 12]), (1.0, [4, 12])], ids=["every quarter of a minute", "a 50th of it"]
    )
    def test_checkpoints_are_rarer_where_writing_is_slow(
        self, writing: float, saved: list[int], clock: SimpleNamespace, tmp_path: Path
    ) -> None:
        clock.writing = writing
        train(tiny(), tmp_path)
        assert clock.saved == saved

    def test_training_stops_after_the_step_in_which_its_minutes_are_over(
        self, clock: SimpleNamespace, tmp_path: Path
    ) -> None:
        with pytest.raises(Unfinished) as stop:
            train(tiny(), tmp_path, max_minutes=0.5)
        assert (stop.value.step, clock.now, clock.saved) == (8, 32, [4, 8])

    def test_seconds_of_an_epoch_are_those_of_all_calls_without_the_pauses(
        self, clock: SimpleNamespace, tmp_path: Path
    ) -> None:
        for _ in range(11):
            clock.now += 1000
            with pytest.raises(Unfinished):
                train(tiny(), tmp_path, max_minutes=1e-9)
        _, history = train(tiny(), tmp_path)
        assert [row["seconds"] for row in history] == [16, 16, 16]


class TestDivergence:
    @staticmethod
    def spoil(monkeypatch: pytest.MonkeyPatch, step: int, value: float) -> None:
        """Makes the loss of a step such a value."""
        whole = _Training.training_step

        def training_step(self: _Training, batch: int) -> dict[str, Tensor]:
            result = whole(self, batch)
            if self.global_step == step:
                result["tally"] = result["tally"] * torch.tensor([value, 1.0])
            return result

        monkeypatch.setattr(_Training, "training_step", training_step)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_ends_the_training_after_its_epoch_and_leaves_no_checkpoint(
        self, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", math.inf)
        self.spoil(monkeypatch, 5, value)
        with pytest.raises(Diverged, match=rf"^{PLAIN} diverged: the loss of epoch 1 is {value}, expected"):
            train(tiny(), tmp_path)
        assert not (tmp_path / "last.ckpt").exists()

    @pytest.mark.usefixtures("save_every_step")
    def test_is_noticed_before_a_checkpoint_would_keep_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, _ = train(tiny(), tmp_path / "whole")
        with monkeypatch.context() as patch:
            self.spoil(patch, 5, math.nan)
            with pytest.raises(Diverged, match="epoch 1 is nan"):
                train(tiny(), tmp_path / "cut")
        assert read_checkpoint(tmp_path / "cut/last.ckpt")["global_step"] == 5
        again, _ = train(tiny(), tmp_path / "cut")
        assert_same(again, whole)

    def test_of_the_weights_in_the_very_last_step_is_noticed_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        step = AdamLp.step

        def overflow(self: AdamLp, closure: Callable[[], Any] | None = None) -> Any:
            result = step(self, closure)
            if self.param_groups[0]["p"] == math.inf:
                self.param_groups[0]["params"][0].data.fill_(math.inf)
            return result

        monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", math.inf)
        monkeypatch.setattr(AdamLp, "step", overflow)
        with pytest.raises(
            Diverged, match=r"diverged: net.layers.0.weight is not finite after step 3, expected finite"
        ):
            train(tiny(batch_size=50), tmp_path)
        assert not (tmp_path / "last.ckpt").exists()

    def test_of_the_weights_is_not_passed_off_as_one_of_the_loss(self, tmp_path: Path) -> None:
        recipe = tiny(lr=1e39, batch_size=50, epochs_ramp=0, epochs_inf=0)
        with pytest.raises(
            Diverged, match=rf"^{PLAIN} diverged: net.layers.0.weight is not finite after step 1, expected"
        ):
            train(recipe, tmp_path)


class TestManners:
    def test_prints_and_warns_nothing_and_leaves_loggers_as_they_were(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        levels = [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(tiny(), tmp_path)
            with pytest.raises(Unfinished):
                train(tiny(), tmp_path / "stopped", max_minutes=1e-9)
            train(tiny(), tmp_path / "stopped")
        assert capfd.readouterr() == ("", "")
        assert levels == [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")]

    def test_shows_progress_when_asked(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        train(tiny(), tmp_path, progress=True)
        shown = capsys.readouterr().out
        assert "12/12" in shown and "epoch=3/3, p=inf, loss=" in shown

    def test_shows_the_progress_of_a_resumed_run_from_where_it_goes_on(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(Unfinished):
            train(tiny(), tmp_path, max_minutes=1e-9)
        train(tiny(), tmp_path, progress=True)
        shown = capsys.readouterr().out
        assert "10/12" in shown and "12/12" in shown and "epoch=3/3" in shown

    def test_ctrl_c_stays_an_interrupt_and_can_be_pressed_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(self: _Training, batch: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(_Training, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_a_request_to_terminate_is_not_taken_for_ctrl_c(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = _Training.training_step

        def terminated(self: _Training, batch: int) -> dict[str, Tensor]:
            os.kill(os.getpid(), signal.SIGTERM)
            return whole(self, batch)

        monkeypatch.setattr(_Training, "training_step", terminated)
        with pytest.raises(SystemExit) as stop:
            train(tiny(), tmp_path)
        assert stop.value.code == TERMINATED == 143
        assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 1


def test_images_of_ones_own_are_trained_on_in_a_folder_named_by_a_text(tmp_path: Path) -> None:
    pixels, labels = torch.rand(20, 1, 5, 7), torch.arange(20, dtype=torch.uint8) % 3
    recipe = tiny(input_shape=(1, 5, 7), classes=3)
    rows = fit(
        build(recipe, seed=0),
        recipe,
        Images(pixels, labels, 1),
        seed=0,
        device="cpu",
        workdir=str(tmp_path / "new"),
        progress=False,
    )
    assert len(rows) == recipe.epochs
    assert (tmp_path / "new/last.ckpt").exists()


def test_images_of_a_data_set_that_is_cut_may_be_larger(tmp_path: Path) -> None:
    recipe = tiny(dataset="tiny-imagenet", input_shape=(1, 6, 6), epochs_ramp=0, epochs_inf=0)
    net = build(recipe, seed=0)
    rows = fit(net, recipe, images(tiny()), seed=0, device="cpu", workdir=tmp_path, progress=False)
    assert len(rows) == 1


class TestRefusals:
    def test_a_net_of_another_recipe(self, tmp_path: Path) -> None:
        recipe = tiny()
        for name, other in (("num_classes", {"classes": 11}), ("input_shape", {"input_shape": (1, 4, 4)})):
            with pytest.raises(ValueError, match=f"net has {name} = .*, expected .*, as in the recipe"):
                train(recipe, tmp_path / "new", net=build(recipe.replace(**other), seed=0))
        with pytest.raises(ValueError, match=r"net has keep_prob = 0.\d+, expected None, as in the recipe"):
            train(recipe, tmp_path / "new", net=build(tiny(SORTED), seed=0))
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        ("name", "net", "sentence"),
        [
            (COMPOSITE, build(tiny(), seed=0), "net must be a CompositeNet for loss 'ibp', got LInfDistNet"),
            (PLAIN, build(tiny(COMPOSITE), seed=0), "net must be a PlainNet for loss 'hinge', got LInfDistNetMLP"),
            (CLIPPED, build(tiny(COMPOSITE), seed=0), "net must be a PlainNet for loss 'clipped-hinge', got LInf"),
            (PLAIN, torch.nn.Linear(64, 10), "net must be a PlainNet for loss 'hinge', got Linear"),
        ],
    )
    def test_a_net_that_the_loss_is_not_for(self, name: str, net: Any, sentence: str, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match=f"^{sentence}"):
            train(tiny(name), tmp_path / "new", net=net)
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"seed": -1}, "seed is -1, expected a whole number of at least 0 and below"),
            ({"seed": 0.5}, r"seed is 0\.5, expected a whole number"),
            ({"devices": 0}, "devices is 0, expected a whole number of at least 1"),
            ({"num_nodes": True}, "num_nodes is True, expected a whole number"),
            ({"max_minutes": -1}, "max_minutes is -1, expected a positive number or None"),
            ({"max_minutes": "5"}, "max_minutes is '5', expected a positive number or None"),
        ],
    )
    def test_numbers_out_of_range(self, options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=f"^{sentence}"):
            train(tiny(), tmp_path / "new", **options)
        assert not (tmp_path / "new").exists()

    def test_no_images(self, tmp_path: Path) -> None:
        recipe = tiny()
        nothing = images(recipe).subset(torch.arange(0))
        with pytest.raises(ValueError, match="train has 0 images, expected at least one"):
            fit(build(recipe, seed=0), recipe, nothing, seed=0, device="cpu", workdir=tmp_path / "new")
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"classes": 9}, "train has labels up to 9, expected less than classes = 9"),
            ({"input_shape": (1, 9, 9)}, r"train has images of shape \(1, 8, 8\), expected input_shape = \(1, 9, 9\)"),
            ({"input_shape": (1, 6, 6)}, r"train has images of shape \(1, 8, 8\), expected input_shape = \(1, 6, 6\)$"),
            (
                {"input_shape": (1, 6, 8), "dataset": "tiny-imagenet"},
                r"expected input_shape = \(1, 6, 8\), or as many pixels more in height as in width$",
            ),
        ],
    )
    def test_images_that_do_not_fit_the_recipe(self, changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
        recipe = tiny(**changes)
        with pytest.raises(ValueError, match=sentence):
            fit(build(recipe, seed=0), recipe, images(tiny()), seed=0, device="cpu", workdir=tmp_path)

    def test_an_unknown_device(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="device is 'gpu', expected one of auto, cpu, cuda"):
            train(tiny(), tmp_path, device="gpu")


@pytest.mark.parametrize("name", [PLAIN, COMPOSITE])
def test_kernels_and_reference_train_alike_step_by_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # one step an epoch, so that the history holds the loss of every step
    recipe = tiny(name, batch_size=50, p_end=1000, epochs_const=6, epochs_ramp=24, epochs_inf=6)
    _, history = train(recipe, tmp_path / "kernels")
    monkeypatch.setattr(lib.ops, "_sibling", lambda x, p=math.inf: reference)
    _, expected = train(recipe, tmp_path / "reference")
    torch.testing.assert_close(
        torch.tensor([row["loss"] for row in history]),
        torch.tensor([row["loss"] for row in expected]),
        rtol=1e-4,
        atol=0,
    )
