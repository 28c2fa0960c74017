"""Training on Lightning: any run is a function of (recipe, seed), however often it is interrupted or split over ranks.

Lightning counts the steps, saves and restores weights and optimiser, and talks to the other ranks. What a step does
follows from its number alone, so a checkpoint after any step is enough to go on exactly as if nothing had happened.
"""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from lib.device import resolve_device
from lib.nets.arguments import integer
from lib.nets.base import CompositeNet, PlainNet
from lib.nets.checks import kind_of
from lib.nets.models import Net
from lib.recipes import Recipe
from lib.recipes.recipe import EVALUATION
from lib.recipes.values import nearest_float, without_dimension
from lib.training.callbacks import AtomicIO, History, Keeper, Progress
from lib.training.checkpoint import UNKNOWN, Origin, check_same_run, read_checkpoint
from lib.training.data import check_images
from lib.training.datasets import Images
from lib.training.draws import epoch_order, step_generator, training_batch
from lib.training.endings import TERMINATED, Diverged, Elsewhere, Unfinished
from lib.training.objectives import make_objective
from lib.training.optim import AdamLp, make_optimizer
from lib.training.quiet import quiet
from lib.training.ranks import Machines, SpawnedDDP, check_ranks, node_rank, passing_on
from lib.training.running_means import collect_running_means_
from lib.training.schedules import knobs_at

# fields of a recipe that training does not look at: see `fit`, and of the net its config says what it is
_UNREAD = {"name", "model", "width", "depth", "hidden", "identity", "mean", "std"}
_UNREAD |= {"train_limit", "validation", *EVALUATION}


def fit(
    net: Net,
    recipe: Recipe,
    train: Images,
    *,
    seed: int,
    device: str,
    devices: int = 1,
    num_nodes: int = 1,
    workdir: str | Path,
    origin: Origin = UNKNOWN,
    max_minutes: float | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train `net` in place for recipe.epochs epochs; on return it is on the CPU, in evaluation mode.

    Every quarter of a minute (less often where writing is slow) and at the end workdir/last.ckpt is replaced. Where it
    exists, training goes on from it: on a CPU with the weights and history, seconds aside, of an undisturbed run, bit
    for bit (where there is a head, with as many threads: they share the sum of a gradient of its last layer). The
    history is also in workdir/history.csv.

    Args:
        net: the net to train; its own weights are the start, unless there is a checkpoint.
        recipe: loss, schedules, optimiser, augmentation, batch size. What made the net (model, width, depth, hidden,
            identity, mean, std), limits, validation, eps_test, pgd_steps and the name are not read; of dataset only
            whether its images may be cut.
        train: the training images, those of a data set or your own; a copy is held on each device.
        seed: with the step's number it decides order and augmentation.
        device: "auto", "cpu" or "cuda".
        devices, num_nodes: processes per machine (spawned where there is more than one, so the calling script needs a
            main guard) and machines; each step's batch is split over all of them, and `workdir` must be shared. Each of
            several machines makes the same call, see `check_ranks`.
        workdir: folder of checkpoint and history; made where missing.
        origin: what trains, for the checkpoint; see `origins_of`.
        max_minutes: stop at the end of a step after so long.
        progress: show a progress bar.

    Returns:
        One row per epoch: epoch (from 0), p, lr and eps of its last step, mean loss and accuracy over its training
        images at the p of each step, seconds.

    Raises:
        ValueError: a net or training images that do not fit the recipe, no images, unknown device, a number out of
            range, a run that cannot be split so (see `check_ranks`), or a checkpoint that is damaged or of another run,
            of another net or on other images too.
        TypeError: a net of another kind than the loss is for.
        Unfinished: max_minutes ran out.
        Diverged: a loss or a weight is no finite number any more.
        Elsewhere: on every machine but the first.
        SystemExit: TERMINATED, where SIGTERM asked training to end; it is saved.
    """
    seed, devices, num_nodes, max_minutes = plain_numbers(seed, devices, num_nodes, max_minutes)
    _check_net(recipe, net)
    check_images(recipe, train)
    workdir = Path(workdir)
    target = resolve_device(device)
    check_ranks(recipe, target, devices, num_nodes)
    path = workdir / "last.ckpt"
    run = {name: value for name, value in recipe.as_dict().items() if name not in _UNREAD}
    run |= {"seed": seed, "images": len(train), "fingerprint": train.fingerprint()}
    run |= {"net": type(net).__name__} | {f"net.{name}": value for name, value in net.config.items()}
    resume = path.exists()
    if resume:
        check_same_run(path, run)
    workdir.mkdir(parents=True, exist_ok=True)

    module = _Training(net, recipe, train, seed)
    total = total_steps(recipe, len(train))
    history = History(recipe, len(train), module.steps_per_epoch, workdir / "history.csv")
    keeper = Keeper(path, run, origin, total, math.inf if max_minutes is None else max_minutes)
    callbacks: list[Callback] = [history, keeper]
    if progress:
        callbacks.append(Progress(history))
    with quiet():
        trainer = _trainer(target.type, devices, num_nodes, total, callbacks, workdir)
        net.train()
        with passing_on(trainer):
            _run(trainer, module, path if resume else None)
    net.eval()
    if node := node_rank(num_nodes):
        raise Elsewhere(node, num_nodes)
    checkpoint = read_checkpoint(path)
    if checkpoint["global_step"] < total:
        raise Unfinished(checkpoint["global_step"], total)
    if recipe.keep_prob is not None:
        collect_running_means_(net.to(target), train.to(target))
        net.cpu()
    rows: list[dict[str, float]] = checkpoint["history"]
    return rows


def plain_numbers(seed: Any, devices: Any, num_nodes: Any, max_minutes: Any) -> tuple[int, int, int, float | None]:
    """These arguments of `fit`, whatever library they come from, as plain numbers.

    Raises ValueError for the first that is none, or out of range.
    """
    return (
        _whole("seed", seed, 0),
        _whole("devices", devices, 1),
        _whole("num_nodes", num_nodes, 1),
        _minutes(max_minutes),
    )


def _whole(name: str, value: Any, least: int) -> int:
    try:
        return integer(name, value, at_least=least)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}, expected a whole number of at least {least} and below 2^63") from error


def _minutes(value: Any) -> float | None:
    if value is None:
        return None
    plain = without_dimension(value)
    # true is no minute
    if isinstance(plain, bool) or not isinstance(plain, Real) or not nearest_float(plain) > 0:
        raise ValueError(f"max_minutes is {value!r}, expected a positive number or None")
    return nearest_float(plain)


def _check_net(recipe: Recipe, net: Net) -> None:
    kind = CompositeNet if recipe.loss == "ibp" else PlainNet
    if not isinstance(net, kind):
        raise TypeError(f"net must be a {kind.__name__} for loss {recipe.loss!r}, got {kind_of(net)}")
    wanted = {"input_shape": list(recipe.input_shape), "num_classes": recipe.classes, "keep_prob": recipe.keep_prob}
    for name, expected in wanted.items():
        if (found := net.config.get(name)) != expected:
            raise ValueError(f"net has {name} = {found}, expected {expected}, as in the recipe")


def total_steps(recipe: Recipe, images: int) -> int:
    """Training steps of a run on so many images."""
    return recipe.epochs * math.ceil(images / recipe.batch_size)


class _Training(L.LightningModule):
    """One step: batch, knobs, loss, each a function of the step's number."""

    optimizer: AdamLp

    def __init__(self, net: Net, recipe: Recipe, images: Images, seed: int) -> None:
        super().__init__()
        self.net, self.recipe, self.images, self.seed = net, recipe, images, seed
        self.objective = make_objective(recipe)
        self.steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
        self.order_epoch, self.order = -1, torch.empty(0, dtype=torch.int64)

    def on_fit_start(self) -> None:
        self.images = self.images.to(self.device)

    def train_dataloader(self) -> range:
        """Only counts: a step derives its batch from its own number."""
        return range(total_steps(self.recipe, len(self.images)))

    def configure_optimizers(self) -> AdamLp:
        self.optimizer = make_optimizer(self.net, self.objective, self.recipe)
        return self.optimizer

    def training_step(self, _: int) -> dict[str, Tensor]:
        step = self.global_step
        knobs = knobs_at(self.recipe, step / self.steps_per_epoch)
        self.optimizer.set_knobs(knobs.p, knobs.lr)
        epoch, place = divmod(step, self.steps_per_epoch)
        draws = step_generator(self.seed, epoch, place)
        x, y, size = self._share(epoch, place, draws)
        with _layers_draw_from(draws):
            if len(y):
                logits, loss = self.objective(self.net, x, y, knobs)
            else:
                # a rank without images still takes part in the exchange of means and gradients
                logits = self.net(x, knobs.p)
                loss = logits.sum() + sum(parameter.sum() for parameter in self.objective.parameters())
        correct = (logits.detach().argmax(1) == y).sum()
        tally = torch.stack([loss.detach().double() * len(y), correct.double()])
        # ranks average their gradients; the weight makes that the mean over all images of the batch
        return {"loss": loss * (len(y) * self.trainer.world_size / size), "tally": tally}

    def _share(self, epoch: int, place: int, draws: torch.Generator) -> tuple[Tensor, Tensor, int]:
        """This rank's images and labels of batch `place` of an epoch, and the size of the whole batch."""
        if epoch != self.order_epoch:
            self.order_epoch = epoch
            self.order = epoch_order(len(self.images), self.seed, epoch).to(self.device)
        size = self.recipe.batch_size
        indices = self.order[place * size : (place + 1) * size]
        x = training_batch(self.images, self.recipe, indices, draws)
        mine = slice(self.global_rank, None, self.trainer.world_size)
        return x[mine], self.images.labels[indices][mine], len(indices)


@contextmanager
def _layers_draw_from(draws: torch.Generator) -> Iterator[None]:
    """What layers draw from torch's own generator on the CPU goes on where `draws` stands; it comes back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(draws.get_state())
        yield


def _trainer(
    accelerator: str, devices: int, num_nodes: int, total: int, callbacks: list[Callback], workdir: Path
) -> L.Trainer:
    """A trainer that takes `total` steps and does nothing by itself that `callbacks` do not ask for."""
    return L.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=SpawnedDDP() if devices * num_nodes > 1 else "auto",
        plugins=[AtomicIO(), Machines(num_nodes)],
        callbacks=callbacks,
        max_steps=total,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, Progress) for callback in callbacks),
        use_distributed_sampler=False,
        default_root_dir=workdir,
    )


def _run(trainer: L.Trainer, module: _Training, checkpoint: Path | None) -> None:
    try:
        trainer.fit(module, ckpt_path=checkpoint)
    except SIGTERMException:
        # Lightning's own status would be 0
        raise SystemExit(TERMINATED) from None
    except SystemExit:
        # Lightning turns Ctrl-C into an exit and leaves it ignored, which would cost a notebook its kernel
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
    except ProcessRaisedException as error:
        # what a rank raises arrives as the text of its traceback
        _, diverged, sentence = str(error).rpartition(f"{Diverged.__name__}: ")
        if not diverged:
            raise
        raise Diverged(sentence.strip()) from None
