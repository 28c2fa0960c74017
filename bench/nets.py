"""Whole nets: a training step by its parts, the certificates of a batch, and a pruned net beside its dense one."""

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench import clock
from bench.clock import Found
from lib import certify, load, prune, recipes
from lib.experiments.speed import FORWARD, Timing
from lib.nets.models import LInfDistNet, build
from lib.recipes import Recipe
from lib.robustness.inputs import executed_logits
from lib.training.data import batch, load_data
from lib.training.datasets import Images
from lib.training.draws import epoch_order, step_generator, training_batch
from lib.training.objectives import make_objective
from lib.training.optim import make_optimizer
from lib.training.schedules import knobs_at

# The step that is timed: of each net of the paper at these widths, at these p, so many batches.
NETS = ("mnist/linf-dist-net", "cifar10/linf-dist-net")
STEPS = {512: ((8.0, 37.3, math.inf), 5), 1024: ((8.0, 37.3, math.inf), 5), 5120: ((8.0, math.inf), 3)}
PARTS = ("data", "forward", "backward", "optimiser")

PRUNED = Path(__file__).resolve().parent.parent / "results/mnist/linf-dist-net/laptop-0.safetensors"
PRUNED_IMAGES = 10_000


def sections(device: str) -> dict[str, Callable[[], Found]]:
    """By name: "pruned", and for each net and width "train/..." and "certify/..."."""
    found: dict[str, Callable[[], Found]] = {"pruned": functools.partial(_pruned, device)}
    for name, width in itertools.product(NETS, STEPS):
        recipe = recipes.load(name, "paper").replace(width=width)
        exponents, count = STEPS[width]
        for p in exponents:
            found[f"train/{recipe.dataset}-{width}/p={p:g}"] = functools.partial(_train, recipe, device, p, count)
        found[f"certify/{recipe.dataset}-{width}"] = functools.partial(_certify, recipe, device)
    return found


def _label(recipe: Recipe) -> str:
    return f"{recipe.dataset}, {recipe.depth} layers of {recipe.width}"


def _widths(net: Any) -> tuple[int, ...]:
    weights = net.distance_weights()
    return (weights[0].shape[1], *(len(w) for w in weights))


def _loaded(recipe: Recipe, device: str) -> tuple[Images, Images] | str:
    """Training and test images, or why there are none."""
    try:
        train, test = load_data(recipe)
    except FileNotFoundError as error:
        return str(error)
    return train.to(device), test.to(device)


def _train(recipe: Recipe, device: str, p: float, count: int) -> Found:
    """The parts of `count` steps of a fresh net after one that is left out, and what of them are distances."""
    loaded = _loaded(recipe, device)
    if isinstance(loaded, str):
        yield _label(recipe), loaded
        return
    net = build(recipe, seed=0).to(device).train()
    step = _Step(net, recipe, loaded[0], p)
    seconds = [step(number) for number in range(count + 1)][1:]
    common: dict[str, Any] = {"who": _label(recipe), "p": p, "batch": recipe.batch_size, "widths": _widths(net)}
    for what, column in zip(PARTS, zip(*seconds, strict=True), strict=True):
        yield Timing(what=what, seconds=column, **common)
    if device == "cpu":
        distances = tuple(_distances(functools.partial(step, count + 1 + number)) for number in range(count))
        yield Timing(what="distances", seconds=distances, **common)


class _Step:
    """A training step as lib/training/fit.py takes it, without the trainer around it."""

    def __init__(self, net: Any, recipe: Recipe, images: Images, p: float) -> None:
        self.net, self.recipe, self.images = net, recipe, images
        self.objective = make_objective(recipe)
        self.optimizer = make_optimizer(net, self.objective, recipe)
        self.knobs = knobs_at(recipe, 0.0)._replace(p=p)
        self.optimizer.set_knobs(p, self.knobs.lr)
        self.order = epoch_order(len(images), 0, 0)

    def __call__(self, number: int) -> tuple[float, ...]:
        """Seconds of each of `PARTS`."""
        kept: dict[str, Any] = {}

        def data() -> None:
            kept["x"], kept["y"] = self._batch(number)

        def forward() -> None:
            kept["loss"] = self.objective(self.net, kept["x"], kept["y"], self.knobs)[1]

        def backward() -> None:
            self.optimizer.zero_grad()
            kept["loss"].backward()

        return tuple(clock.once(part) for part in (data, forward, backward, self.optimizer.step))

    def _batch(self, number: int) -> tuple[Tensor, Tensor]:
        size = self.recipe.batch_size
        indices = self.order[number * size : (number + 1) * size]
        x = training_batch(self.images, self.recipe, indices, step_generator(0, 0, number))
        return x, self.images.labels[indices.to(self.images.labels.device)]


def _distances(work: clock.Work) -> float:
    """Seconds that a piece of work spends in this book's operations."""
    with profile(activities=[ProfilerActivity.CPU]) as events:
        work()
    return sum(e.cpu_time_total for e in events.key_averages() if e.key.startswith("linf_dist_book::")) / 1e6


def _certify(recipe: Recipe, device: str) -> Found:
    """Interval certificates of one batch of test images by a fresh net, whose own answers count as right.

    Its margins settle hardly any of them, so nearly every image needs its box: the most that a certificate can cost.
    """
    loaded = _loaded(recipe, device)
    if isinstance(loaded, str):
        yield _label(recipe), loaded
        return
    net, test = build(recipe, seed=0).to(device).eval(), loaded[1]
    indices = torch.arange(recipe.batch_size)
    x = batch(test, indices)
    with torch.no_grad():
        y = net(x).argmax(1)
    seconds = clock.runs(lambda: certify(net, x, y, recipe.eps_test))
    yield Timing(what="certify", who=_label(recipe), p=math.inf, batch=len(x), widths=_widths(net), seconds=seconds)


def _pruned(device: str) -> Found:
    """All MNIST test images through a trained net and the same net pruned; triples count as if all were kept."""
    recipe = recipes.load("mnist/linf-dist-net", "laptop")
    loaded = _loaded(recipe, "cpu")
    if isinstance(loaded, str) or device != "cpu":
        yield "pruned net", loaded if isinstance(loaded, str) else "has kernels for the CPU only"
        return
    dense = load(PRUNED).eval()
    assert isinstance(dense, LInfDistNet)
    x, y = batch(loaded[1], torch.arange(PRUNED_IMAGES)), loaded[1].labels
    pair = {"dense net": dense, "pruned net": prune(dense)}
    tasks: dict[str, Callable[[Any], object]] = {
        FORWARD: lambda net: executed_logits(net, x),
        "certify": lambda net: certify(net, x, y, recipe.eps_test),
    }
    for what, task in tasks.items():
        seconds = clock.in_turn([functools.partial(task, net) for net in pair.values()])
        for who, column in zip(pair, seconds, strict=True):
            yield Timing(what=what, who=who, p=math.inf, batch=len(x), widths=_widths(dense), seconds=column)
