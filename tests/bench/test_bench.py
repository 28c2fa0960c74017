"""The measurements that are committed, the page made from them, and what measures them."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import layers, nets, probe
from bench.__main__ import ROOT, with_found
from bench.peers import PEERS, Peer, Unable, ours
from lib.experiments.speed import BOTH, FORWARD, OURS, read

FILES = sorted((ROOT / "bench/results").glob("*.json"))
SECTIONS = probe.sections("cpu") | layers.sections("cpu") | nets.sections("cpu")


def test_there_are_measurements() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
class TestAFileOfMeasurements:
    def test_has_every_section_with_its_circumstances(self, path: Path) -> None:
        speed = read(path)
        assert set(speed.sections) == set(SECTIONS)
        for section in speed.sections.values():
            assert section.commit and section.versions["torch"] and section.load >= 0
            assert section.tests.endswith("passed")

    def test_times_ours_at_least_five_times_on_512_samples(self, path: Path) -> None:
        for width in layers.WIDTHS:
            mine = [t for t in read(path).timings(f"{width}/") if t.who == OURS]
            assert {(t.what, t.p) for t in mine} >= {(w, p) for w in (FORWARD, BOTH) for p in layers.EXPONENTS}
            assert all(len(t.seconds) >= 5 and t.batch == 512 for t in mine)

    def test_says_of_every_peer_how_fast_or_why_not(self, path: Path) -> None:
        for name, section in read(path).sections.items():
            if name.partition("/")[2].startswith("forward"):
                seen = {t.who for t in section.timings} | set(section.skipped)
                assert seen == {OURS, *(peer.who for peer in PEERS)}

    def test_is_drawn_by_the_chapter(self, path: Path) -> None:
        assert path.stem in (ROOT / "book/efficiency.ipynb").read_text()


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.who)
def test_a_peer_computes_the_same_distances_or_says_why_not(peer: Peer) -> None:
    x, w = torch.randn(6, 40), torch.randn(5, 40)
    try:
        got = torch.as_tensor(peer.make(math.inf)(x, w))
    except Unable as reason:
        assert str(reason)
        return
    torch.testing.assert_close(got.float(), ours(FORWARD, math.inf)(x, w))


def test_a_section_that_finds_nothing_replaces_no_measurement() -> None:
    speed = read(FILES[0])
    name, old = next((name, section) for name, section in speed.sections.items() if section.timings)
    empty = dataclasses.replace(old, timings=(), skipped={"ours": "no data"})
    assert with_found(speed, empty) == speed
    without = dataclasses.replace(speed, sections={})
    assert with_found(without, empty).sections == {name: empty}
    newer = dataclasses.replace(old, load=0.5)
    assert with_found(speed, newer).sections[name] == newer


def test_an_unknown_section_is_refused_and_nothing_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "nothing", "--folder", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and "no section begins with nothing" in run.stderr
    assert list(tmp_path.iterdir()) == []
