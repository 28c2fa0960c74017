import json
import math
from pathlib import Path

import pytest

from lib.experiments.gpu_limit import LIMIT, least_seconds, limit_table


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    few = {"all": 4.0, "multiply": 1.0, "compare": 3.0, "memory": 0.0, "other": 0.0}
    many = {"all": 8.0, "multiply": 8.0, "compare": 0.0, "memory": 0.0, "other": 0.0}
    kernels = [
        {"what": "forward", "p": "inf", "instructions": few},
        {"what": "forward, after the maxima", "p": "8.0", "instructions": many},
        {"what": "backward", "p": "8.0", "instructions": many},
        {"what": "forward", "p": "2.0", "instructions": few},
        {"what": "backward", "p": "2.0", "instructions": many},
        {"what": "backward", "p": "inf"},
    ]
    path = tmp_path / "code.json"
    path.write_text(json.dumps({"kernels": kernels}))
    return path


def test_the_limit_is_that_of_the_unit_that_is_busiest(counted: Path) -> None:
    table = limit_table(counted)
    assert len(table) == 5
    issued = 132 * 128 * 1.98
    assert table[LIMIT].tolist() == pytest.approx([issued / 6, issued / 8, issued / 8, issued / 6, issued / 8])


def test_finite_p_takes_the_maxima_too_unless_its_sums_are_found_at_once(counted: Path) -> None:
    table = limit_table(counted)
    billion_instructions = 1 / (132 * 128 * 1.98)
    assert least_seconds(table, math.inf, 10**9) == pytest.approx(6 * billion_instructions)
    assert least_seconds(table, 8.0, 10**9) == pytest.approx((6 + 8 + 8) * billion_instructions)
    assert least_seconds(table, 2.0, 10**9) == pytest.approx((6 + 8) * billion_instructions)
