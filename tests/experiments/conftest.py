"""A run that never happened: records and tables whose verdicts follow from margin radii drawn at random."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lib.experiments.record import Record, Table
from lib.recipes import load

RADII = np.array([0.05, 0.1, 0.2, 0.3, 0.4])


def table_of(n: int, seed: int, eps: float) -> Table:
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 10, n)
    prediction = np.where(draw.random(n) < 0.9, label, (label + 1) % 10)
    radius = np.where(label == prediction, draw.uniform(0.05, 0.6, n), 0.0)
    return Table(
        label=label,
        prediction=prediction,
        radius=radius,
        certified={"margin": radius > eps, "interval": radius > 0.95 * eps},
        robust=radius > 0.8 * eps,
        robust_strong=radius > 0.9 * eps,
        radii=RADII,
        survived=radius[:, None] > 0.8 * RADII,
    )


def record_of(table: Table, name: str, budget: str, seed: int, **overrides: Any) -> Record:
    recipe = load(name, budget).replace(**overrides)
    return Record(
        recipe=recipe,
        budget=budget,
        seed=seed,
        overrides=overrides,
        commit="0" * 40,
        dirty=False,
        versions={"python": "3.11"},
        device="cpu",
        seconds_train=12.5,
        seconds_evaluate=3.25,
        peak_memory=2**30,
        history=[
            {
                "epoch": epoch,
                "p": 8.0 if epoch < min(3, recipe.epochs - 1) else math.inf,
                "lr": 0.02,
                "eps": 0.0,
                "loss": 1 / (epoch + 1),
                "accuracy": 0.9,
                "seconds": [100.0, 4.0, 4.0][epoch] if epoch < 3 else 1.0,
            }
            for epoch in range(recipe.epochs)
        ],
        eps=recipe.eps_test,
        n=len(table.label),
        clean=int(table.clean.sum()),
        robust=int(table.robust.sum()),
        robust_strong=int(table.robust_strong.sum()),
        certified={method: int(verdicts.sum()) for method, verdicts in table.certified.items()},
        attacks={"robust": "PGD-20", "robust_strong": "PGD-20 with gradients at finite p"},
        certificates={"margin": "Fact 3.6", "interval": "intervals from the clipped box"},
    )


@pytest.fixture
def make_run() -> Callable[..., tuple[Record, Table]]:
    """make_run(name, budget, seed, n=..., **overrides) -> (record, table)."""

    def make(
        name: str = "mnist/linf-dist-net", budget: str = "laptop", seed: int = 0, n: int = 200, **overrides: Any
    ) -> tuple[Record, Table]:
        table = table_of(n, seed, load(name, budget).replace(**overrides).eps_test)
        return record_of(table, name, budget, seed, **overrides), table

    return make
