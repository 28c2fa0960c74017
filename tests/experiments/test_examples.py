"""The panels of examples: certified images stay what they are, broken ones do not, and no change exceeds eps."""

import dataclasses
from typing import Any

import numpy as np
import pytest

import lib
from lib.experiments import ledger
from lib.experiments.examples import COLUMNS, plot_examples
from lib.training.data import load_data

NAMES = [f"digit {k}" for k in range(10)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(net, images, record, table) of a small run on digits."""
    results = tmp_path_factory.mktemp("results")
    record = lib.run("digits/linf-dist-net", budget="smoke", device="cpu", progress=False, results=results)
    path = ledger.path_of(results, record)
    return lib.load(path.with_suffix(".safetensors")), load_data(record.recipe).test, record, ledger.read_table(path)


def columns(figure: Any) -> Any:
    """The axes [3, 2 * COLUMNS] of the figure; those that hold no image are None."""
    grid = np.array(figure.axes).reshape(3, 2 * COLUMNS)
    return np.vectorize(lambda axes: axes if axes.images else None, otypes=[object])(grid)


def test_certified_images_come_first_and_keep_their_label(run: Any) -> None:
    _, images, _, table = run
    panels = columns(plot_examples(*run, NAMES))
    chosen = np.flatnonzero(table.certified["interval"])[:COLUMNS]
    assert len(chosen) > 0
    for column, index in enumerate(chosen):
        shown = panels[0, column].images[0].get_array()
        np.testing.assert_allclose(shown, images.pixels[index, 0] / 16)
        assert panels[0, column].get_title() == NAMES[table.label[index]]
        assert panels[1, column].get_title() == f"read as {NAMES[table.label[index]]}"


def test_broken_images_are_read_as_something_else_after_a_change_of_at_most_eps(run: Any) -> None:
    _, _, record, _ = run
    panels = columns(plot_examples(*run, NAMES))
    broken = [column for column in range(COLUMNS, 2 * COLUMNS) if panels[0, column] is not None]
    assert broken
    for column in broken:
        assert panels[1, column].get_title() != f"read as {panels[0, column].get_title()}"
        before, after = (panels[row, column].images[0].get_array() for row in (0, 1))
        assert np.abs(after - before).max() <= record.eps + 1e-6


def test_a_run_with_nothing_certified_and_nothing_broken_is_drawn_too(run: Any) -> None:
    net, images, record, table = run
    nothing = np.zeros(record.n, bool)
    empty = dataclasses.replace(table, prediction=(table.label + 1) % 10, certified={"interval": nothing})
    assert not columns(plot_examples(net, images, record, empty, NAMES)).any()
