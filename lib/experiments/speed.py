"""How fast the operations are: what `python -m bench` measured, as data, and the floor that the machine sets.

A triple is one (sample, input, output) of a distance layer. The floor is the time in which a machine can issue the
vector instructions that a triple takes, at the rates of its probes; a kernel cannot be faster with these instructions.
"""

import dataclasses
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lib.files import compact_json, replacing
from lib.ops.cpu import LARGEST_SQUARED_P

SCHEMA = 1

FORWARD, BOTH, BOUNDS = "forward", "forward + backward", "bounds"
OURS, CDIST = "this book", "torch.cdist"


def seconds(work: Callable[[], object], runs: int = 5) -> float:
    """Seconds of a piece of work on the CPU: the median of so many runs, after one that may compile."""
    work()
    ends = [time.perf_counter()]
    for _ in range(runs):
        work()
        ends.append(time.perf_counter())
    return statistics.median(end - begin for begin, end in itertools.pairwise(ends))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of each of several runs of one thing.

    Raises:
        ValueError: no run, a time that is not positive and finite, p outside [1, inf], sizes below 1.
    """

    what: str  # forward, forward + backward, bounds; a part of a training step; the instructions of a probe
    who: str  # whose code, or which net
    p: float
    batch: int  # samples of one run
    widths: tuple[int, ...]  # of a layer: inputs, outputs; of a net: of all its layers; of a probe: lanes, instructions
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds or not all(0 < second < math.inf for second in self.seconds):
            raise ValueError(f"seconds are {self.seconds}, expected positive finite numbers, at least one")
        if not self.p >= 1:
            raise ValueError(f"p is {self.p}, expected 1 <= p <= inf")
        if self.batch < 1 or len(self.widths) < 2 or min(self.widths) < 1:
            raise ValueError(f"batch is {self.batch} and widths are {self.widths}, expected sizes of at least 1")

    @property
    def median(self) -> float:
        """Seconds of the median run."""
        return statistics.median(self.seconds)

    @property
    def triples(self) -> int:
        """(sample, input, output) triples of one run; of a probe, single-lane instructions."""
        return self.batch * sum(a * b for a, b in itertools.pairwise(self.widths))

    @property
    def rate(self) -> float:
        """Billions of triples a second in the median run."""
        return self.triples / self.median / 1e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """What was measured in one go.

    Raises:
        ValueError: neither a timing nor a reason why there is none.
    """

    name: str
    commit: str
    dirty: bool | None  # lib/ or recipes/ differed from the commit; None: no git to ask
    versions: dict[str, str]
    began: str  # UTC, ISO 8601
    load: float  # processes that ran or waited, mean over the minute before
    tests: str  # what had to pass first
    timings: tuple[Timing, ...]
    skipped: dict[str, str]  # who was not measured, and why

    def __post_init__(self) -> None:
        if not self.timings and not self.skipped:
            raise ValueError(f"section {self.name} has no timings, expected some or a reason for each that is missing")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """All sections of one machine; `device` is what ran the operations, `threads` those of torch."""

    device: str
    threads: int
    system: str
    sections: dict[str, Section]

    def timings(self, prefix: str = "") -> Iterator[Timing]:
        """Those of the sections whose names begin so."""
        for name, section in self.sections.items():
            if name.startswith(prefix):
                yield from section.timings

    def with_section(self, section: Section) -> "Speed":
        """The same with a section added or replaced."""
        return dataclasses.replace(self, sections=self.sections | {section.name: section})


def read(path: str | Path) -> Speed:
    """The measurements of a JSON file.

    Raises:
        FileNotFoundError: no such file; says which there are.
        ValueError: not JSON, another schema, or a field that is missing, unknown or out of range.
    """
    path = Path(path)
    if not path.is_file():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.json")))
        raise FileNotFoundError(f"measurements {path.stem} do not exist, expected one of {there or 'no file yet'}")
    raw = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict) or raw.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path.name} has another schema, expected {SCHEMA}")
    try:
        return Speed(**raw | {"sections": {name: _section(name, body) for name, body in raw["sections"].items()}})
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(f"{path.name} is no file of measurements: {error}") from error


def write(speed: Speed, path: str | Path) -> None:
    """Replaces the file at once, so that a run that dies leaves the old one."""
    path = Path(path)
    body = {"schema": SCHEMA} | dataclasses.asdict(speed)
    for section in body["sections"].values():
        del section["name"]
        section["timings"] = [timing | {"p": str(timing["p"])} for timing in section["timings"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        new.write_text(compact_json(body, 4), encoding="utf-8")  # a timing a line


def _section(name: str, raw: dict[str, Any]) -> Section:
    return Section(name=name, **raw | {"timings": tuple(_timing(timing) for timing in raw["timings"])})


def _timing(raw: dict[str, Any]) -> Timing:
    sizes = {"widths": tuple(raw["widths"]), "seconds": tuple(raw["seconds"])}
    return Timing(**raw | sizes | {"p": float(raw["p"])})


# -- the floor --------------------------------------------------------------------------------------------------------


def instructions(what: str, p: float) -> tuple[int, int]:
    """Vector instructions a triple takes, the loads left out: multiplications, and all of them.

    A maximum takes three: subtract, clear the sign, maximise. p = 2^n takes a subtraction and n multiplications, of
    which the last also adds; its gradients 2 n multiplications, a subtraction, a maximum (which keeps small numbers
    normal) and two additions. Any other p needs the maximum of each block, once in each pass, to know what to skip.
    Bounds take two subtractions and a least and a greatest value of each.

    Raises:
        ValueError: something else than forward, forward + backward and bounds.
    """
    squarings = round(math.log2(p)) if p <= LARGEST_SQUARED_P and math.log2(p).is_integer() else 0
    if what == BOUNDS:
        return 0, 6
    if what not in (FORWARD, BOTH):
        raise ValueError(f"what is {what!r}, expected {FORWARD!r}, {BOTH!r} or {BOUNDS!r}")
    if squarings:
        return (squarings, squarings + 1) if what == FORWARD else (3 * squarings, 3 * squarings + 5)
    return (0, 3) if what == FORWARD or math.isinf(p) else (0, 6)


def floor(speed: Speed, what: str, p: float) -> float:
    """Billions of triples a second that the probes' rates allow, NaN where no probe ran."""
    rates = {timing.what: timing.rate for timing in speed.timings("probe")}
    if not rates:
        return math.nan
    multiplications, every = instructions(what, p)
    return 1 / max(multiplications / rates["multiplications"], every / rates["any instructions"])


# -- tables -----------------------------------------------------------------------------------------------------------


def layer_table(speed: Speed, width: int) -> pd.DataFrame:
    """One layer, `width` inputs and outputs: billions of triples a second of all who can, and the floor.

    A row per (what, p); "times cdist" is ours over torch.cdist, "of the floor (%)" ours over the floor.
    """
    chosen = speed.timings(f"{width}/")
    frame = pd.DataFrame([{"what": t.what, "p": t.p, "who": t.who, "rate": t.rate} for t in chosen])
    table = frame.pivot(index=["what", "p"], columns="who", values="rate")
    table["floor"] = [floor(speed, what, p) for what, p in table.index]
    table["times cdist"] = table[OURS] / table[CDIST]
    table["of the floor (%)"] = 100 * table[OURS] / table["floor"]
    return table.reindex([FORWARD, BOTH, BOUNDS], level="what")


def odd_table(speed: Speed) -> pd.Series:
    """Ours over torch.cdist, in triples a second, for each (shape, what, p) of the odd shapes."""
    timings = list(speed.timings("odd"))
    # the peer may have been given fewer samples
    peers = {(t.widths, t.what, t.p): t.rate for t in timings if t.who == CDIST}
    ratios = {
        (f"{t.batch} x {t.widths[0]} to {t.widths[1]}", t.what, t.p): t.rate / peers[t.widths, t.what, t.p]
        for t in timings
        if t.who == OURS
    }
    return pd.Series(ratios).rename_axis(["shape", "what", "p"])


def net_table(speed: Speed, prefix: str) -> pd.DataFrame:
    """Nets in the order in which they were measured: median seconds of each part (columns) for each net and p, with the
    samples and how many were timed."""
    rows = [
        {"net": t.who, "p": t.p, "samples": t.batch, "runs": len(t.seconds), "what": t.what, "seconds": t.median}
        for t in speed.timings(prefix)
    ]
    frame = pd.DataFrame(rows)
    table = frame.pivot(index=["net", "p", "samples", "runs"], columns="what", values="seconds")
    return table.reindex(frame["net"].unique(), level="net").rename_axis(columns="")
