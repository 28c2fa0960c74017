"""What happens between two steps of a training: the history grows, a checkpoint is written, a bar moves on."""

import csv
import math
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from lib.files import replacing
from lib.nets.checks import not_finite
from lib.recipes import Recipe
from lib.training.checkpoint import Origin, origins_of
from lib.training.endings import Diverged
from lib.training.schedules import knobs_at

CHECKPOINT_SECONDS = 15.0  # between two checkpoints, at least
CHECKPOINT_SHARE = 0.02  # of the training time may go into writing checkpoints


class History(Callback):
    """One row per epoch, as `fit` returns them and history.csv holds them; unfinished sums travel in the checkpoint.

    It ends a training that diverged: after the epoch, or before a checkpoint would keep such a state.

    Args:
        recipe: for the schedules.
        images: training images, N.
        steps_per_epoch: T, step t of a run being in epoch t // T.
        path: the CSV file, replaced whole after every epoch.
    """

    def __init__(self, recipe: Recipe, images: int, steps_per_epoch: int, path: Path) -> None:
        self.recipe, self.images, self.steps_per_epoch, self.path = recipe, images, steps_per_epoch, path
        self.rows: list[dict[str, float]] = []
        # this rank's sum of losses and number of right predictions
        self.tally = torch.zeros(2, dtype=torch.float64, device="cpu")
        self.seconds = 0.0  # of the running epoch, spent before this process took over

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.began = time.monotonic() - self.seconds

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.tally = self.tally.to(module.device) + outputs["tally"]
        if trainer.global_step % self.steps_per_epoch == 0:
            self._close_epoch(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        seconds, (loss, correct) = time.monotonic() - self.began, self._total(trainer)
        self._check_finite(loss)
        # an overflowing gradient spoils the weights first, and the loss a step later
        if name := not_finite(checkpoint["state_dict"]):
            raise Diverged(
                f"{self.recipe.name} diverged: {name} is not finite after step {trainer.global_step}, "
                "expected finite weights"
            )
        checkpoint |= {"history": self.rows, "tally": [loss, correct], "seconds": seconds}

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.rows, self.seconds = checkpoint["history"], checkpoint["seconds"]
        if trainer.is_global_zero:
            self.tally = torch.tensor(checkpoint["tally"], dtype=torch.float64, device="cpu")

    def _close_epoch(self, trainer: L.Trainer) -> None:
        knobs = knobs_at(self.recipe, (trainer.global_step - 1) / self.steps_per_epoch)
        loss, correct = self._total(trainer)
        self._check_finite(loss)
        now = time.monotonic()
        row = {"epoch": len(self.rows), "p": knobs.p, "lr": knobs.lr, "eps": knobs.eps}
        row |= {"loss": loss / self.images, "accuracy": correct / self.images, "seconds": now - self.began}
        self.rows.append(row)
        self.tally, self.began = torch.zeros_like(self.tally), now
        if trainer.is_global_zero:
            self._write()

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(
                f"{self.recipe.name} diverged: the loss of epoch {len(self.rows)} is {loss}, expected a finite number"
            )

    def _total(self, trainer: L.Trainer) -> list[float]:
        # summed in place, and the ranks go on with their own sums
        total = trainer.strategy.reduce(self.tally.clone(), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.tolist()

    def _write(self) -> None:
        with replacing(self.path) as new, new.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


class Keeper(Callback):
    """Saves a checkpoint now and then and after the last step, and stops training when its time is over.

    Of several ranks each notes SIGTERM, and all stop after the same step.

    Args:
        path: the checkpoint.
        run: what the run is a function of, of plain types; saved with it, see `check_same_run`.
        origin: what trains; saved with those that trained before.
        total: steps of the run.
        max_minutes: may be inf.
    """

    def __init__(self, path: Path, run: dict[str, Any], origin: Origin, total: int, max_minutes: float) -> None:
        self.path, self.run, self.total, self.max_minutes = path, run, total, max_minutes
        self.origins = [origin]
        self.asked = False  # to end

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # steps between two looks at the clock: with several ranks a look is an exchange
        self.stride = 1 if trainer.world_size == 1 else 10
        now = time.monotonic()
        self.stop_at, self.save_at = now + 60 * self.max_minutes, now + CHECKPOINT_SECONDS
        if trainer.world_size > 1:
            # Lightning's own handler would talk to the other ranks in the middle of a step
            signal.signal(signal.SIGTERM, self._note)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        last = trainer.global_step == self.total
        if trainer.global_step % self.stride and not last:
            return
        now = time.monotonic()
        # saving and stopping take all ranks: the first one's clock counts
        over, due = trainer.strategy.broadcast((now >= self.stop_at, now >= self.save_at or trainer.received_sigterm))
        over = over or trainer.strategy.reduce_boolean_decision(self.asked, all=False)
        trainer.should_stop = over
        if over or due or last:
            trainer.save_checkpoint(self.path)
            saved = time.monotonic()
            self.save_at = saved + max(CHECKPOINT_SECONDS, (saved - now) / CHECKPOINT_SHARE)

    def _note(self, *_: object) -> None:
        self.asked = True

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"run": self.run, "origins": [origin._asdict() for origin in self.origins]}

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        earlier = origins_of(checkpoint)
        self.origins = [*earlier, *(origin for origin in self.origins if origin not in earlier)]


class Progress(TQDMProgressBar):
    """One bar over all steps, with the row of the last finished epoch beside it."""

    def __init__(self, history: History) -> None:
        super().__init__(refresh_rate=10)
        self.history = history

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_start(trainer)
        self.train_progress_bar.total = trainer.max_steps
        self.train_progress_bar.initial = trainer.global_step

    def on_train_epoch_start(self, *_: Any) -> None:
        """Nothing: to Lightning a run is one epoch, and a resumed run does not start it again."""

    def get_metrics(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
        rows = self.history.rows
        shown = {name: f"{rows[-1][name]:.4g}" for name in ("p", "loss", "accuracy")} if rows else {}
        return {"epoch": f"{len(rows)}/{self.history.recipe.epochs}", **shown}


class AtomicIO(TorchCheckpointIO):
    """Checkpoints are replaced whole, and read without unpickling anything but tensors and plain types."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(Path(path)) as new, new.open("wb") as stream:
            try:
                torch.save(checkpoint, stream)
            except RuntimeError as error:
                # torch's writer, closed by an exception such as that of a full disk, hides it behind one of its own
                raise error.__context__ or error from None

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint
