import dataclasses
import json
import math
from pathlib import Path

import pytest

from lib.experiments.speed import (
    BOTH,
    BOUNDS,
    CDIST,
    FORWARD,
    OURS,
    Section,
    Speed,
    Timing,
    floor,
    instructions,
    layer_table,
    net_table,
    odd_table,
    read,
    seconds,
    write,
)


def timing(**changes: object) -> Timing:
    usual = {"what": FORWARD, "who": OURS, "p": math.inf, "batch": 4, "widths": (10, 5), "seconds": (1e-9, 3e-9, 2e-9)}
    return Timing(**usual | changes)  # type: ignore[arg-type]


def section(name: str, *timings: Timing) -> Section:
    return Section(
        name=name,
        commit="unknown",
        dirty=None,
        versions={},
        began="2026-01-01T00:00:00+00:00",
        load=0.5,
        tests="passed",
        timings=timings,
        skipped={"somebody": "asleep"},
    )


def some_speed() -> Speed:
    rates = {"multiplications": 100, "any instructions": 150}
    probes = [
        timing(who="probe", what=what, batch=rate, widths=(1, 1), seconds=(1e-9,)) for what, rate in rates.items()
    ]
    layer = [timing(who=who, batch=batch) for who, batch in ((OURS, 8), (CDIST, 2))]
    net = timing(who="a net", widths=(3, 5, 2), what="data")
    sections = [section("probe", *probes), section("64/forward", *layer), section("odd", *layer), section("net", net)]
    return Speed(device="abacus", threads=2, system="wood", sections={one.name: one for one in sections})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(some_speed(), tmp_path / "abacus.json")
    assert read(tmp_path / "abacus.json") == some_speed()
    assert [path.name for path in tmp_path.iterdir()] == ["abacus.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(schema=2),
        lambda raw: raw.update(colour="red"),
        lambda raw: raw.pop("sections"),
        lambda raw: raw["sections"]["odd"].pop("load"),
        lambda raw: raw["sections"]["odd"]["timings"][0].update(p="0.5"),
        lambda raw: raw["sections"]["odd"]["timings"][0].update(seconds=[]),
        lambda raw: raw["sections"]["odd"]["timings"][0].update(seconds=[0.0]),
        lambda raw: raw["sections"]["odd"]["timings"][0].update(batch=0),
        lambda raw: raw["sections"]["odd"].update(timings=[], skipped={}),
    ],
)
def test_a_damaged_file_is_refused(change: object, tmp_path: Path) -> None:
    path = tmp_path / "abacus.json"
    write(some_speed(), path)
    raw = json.loads(path.read_text())
    change(raw)  # type: ignore[operator]
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"expected|no file of measurements"):
        read(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[1]",
        '{"schema": 1, "sections": []}',
        '{"schema": 1, "sections": {"odd": null}}',
        '{"schema": 1, "sections": {"odd": {"timings": [[]]}}}',
    ],
)
def test_json_of_another_shape_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "abacus.json").write_text(text)
    with pytest.raises(ValueError, match=r"[Ee]xpect|no file of measurements"):
        read(tmp_path / "abacus.json")


def test_a_file_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^measurements none do not exist, expected one of no file yet$"):
        read(tmp_path / "none.json")
    for name in ("b", "a"):
        write(some_speed(), tmp_path / f"{name}.json")
    with pytest.raises(FileNotFoundError, match=r"^measurements none do not exist, expected one of a, b$"):
        read(tmp_path / "none.json")


def test_seconds_are_of_the_median_run_after_one_that_may_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    lasts, clock = iter([100.0, 1.0, 6.0, 2.0]), [0.0]
    monkeypatch.setattr("lib.experiments.speed.time.perf_counter", lambda: clock[0])
    assert seconds(lambda: clock.append(clock.pop() + next(lasts)), runs=3) == 2
    assert not [*lasts]


def test_a_disturbed_run_does_not_show_in_the_median() -> None:
    assert timing(seconds=(1e-9, 90e-9, 2e-9)).median == 2e-9


def test_a_rate_is_triples_over_the_median() -> None:
    assert (timing().median, timing().triples, timing().rate) == (2e-9, 200, 100)
    assert timing(widths=(3, 5, 2)).triples == 4 * (15 + 10)


@pytest.mark.parametrize(
    ("what", "p", "expected"),
    [
        (FORWARD, math.inf, 50),
        (BOTH, math.inf, 50),
        (FORWARD, 8.0, 100 / 3),
        (BOTH, 8.0, 150 / 14),
        (FORWARD, 2.0, 75),
        (FORWARD, 37.3, 50),
        (FORWARD, 64.0, 50),
        (BOTH, 1000.0, 25),
        (BOUNDS, math.inf, 25),
    ],
)
def test_the_floor_is_what_issues_slowest(what: str, p: float, expected: float) -> None:
    assert floor(some_speed(), what, p) == pytest.approx(expected)


def test_there_is_no_floor_without_a_probe() -> None:
    assert math.isnan(floor(dataclasses.replace(some_speed(), sections={}), FORWARD, 8.0))
    with pytest.raises(ValueError, match="what is 'sideways', expected"):
        instructions("sideways", 8.0)


def test_tables_set_ours_beside_the_peer_and_the_floor() -> None:
    row = layer_table(some_speed(), 64).loc[(FORWARD, math.inf)]
    assert row[OURS] == pytest.approx(200) and row["times cdist"] == pytest.approx(4)
    assert row["of the floor (%)"] == pytest.approx(400)
    assert odd_table(some_speed()).to_dict() == {("8 x 10 to 5", FORWARD, math.inf): pytest.approx(4)}
    assert net_table(some_speed(), "net")["data"].to_dict() == {("a net", math.inf, 4, 3): 2e-9}


def test_nets_stand_in_the_order_in_which_they_were_measured() -> None:
    speed = some_speed().with_section(section("wide", *(timing(who=f"width {width}") for width in (512, 1024, 5120))))
    assert list(net_table(speed, "wide").index.get_level_values("net")) == ["width 512", "width 1024", "width 5120"]
