"""Measure this book's operations beside their peers: `python -m bench [SECTION ...]`, all sections by default.

A SECTION is the beginning of a name, such as `1024`, `5120/forward` or `train/mnist`; `--list` prints the names. What a
section finds replaces what the file of this machine had under its name, so that one can measure part by part; a section
that finds nothing, such as one whose data set is not there, replaces nothing.
"""

import argparse
import datetime
import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench import layers, nets, probe
from bench.clock import Found
from lib.experiments import provenance
from lib.experiments.speed import Section, Speed, Timing, read, write

ROOT = Path(__file__).resolve().parent.parent
# of what is measured: the operations, and on a CPU the pruned net and the certificates
TESTS = {
    "cpu": (
        *("tests/ops/test_cpu.py", "tests/ops/test_sparse.py", "tests/nets/test_prune.py"),
        "tests/robustness/test_certify.py",
    ),
    "cuda": ("tests/ops/test_gpu.py",),
}


def main() -> int:
    """Measure what the command line asks for; 1 where the operations' own tests fail."""
    options = _parser().parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = probe.sections(device) | layers.sections(device) | nets.sections(device)
    chosen = [name for name in found if not options.section or name.startswith(tuple(options.section))]
    if not chosen:
        print(f"no section begins with {' or '.join(options.section)}: see --list", file=sys.stderr)
        return 1
    if options.list:
        print(*chosen, sep="\n")
        return 0
    tests = TESTS[device]
    if not _tests_pass(tests, _device(device)):
        print(f"{', '.join(tests)}: not all pass, so nothing is measured", file=sys.stderr)
        return 1
    speed = _so_far(device, options.folder)
    for name in chosen:
        section = _measured(name, found[name], f"{', '.join(tests)} passed")
        speed = with_found(speed, section)
        write(speed, _path(speed, options.folder))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("section", nargs="*", help="the beginning of a section's name")
    parser.add_argument("--list", action="store_true", help="print the names of the sections")
    parser.add_argument("--folder", type=Path, default=ROOT / "bench/results", help="where the measurements go")
    return parser


def _tests_pass(tests: tuple[str, ...], device: str) -> bool:
    """Whether all tests pass, or passed before on such a device with the same code and versions."""
    files = (*sorted(ROOT.glob("lib/**/*.py")), *(ROOT / test for test in tests))
    code = b"".join(path.read_bytes() for path in files) + repr((device, provenance.versions())).encode()
    stamp = ROOT / "runs" / f"bench-{hashlib.sha256(code).hexdigest()[:16]}"
    if stamp.exists():
        return True
    if subprocess.run([sys.executable, "-m", "pytest", "-o", "addopts=", "-q", *tests], cwd=ROOT).returncode:
        return False
    stamp.parent.mkdir(exist_ok=True)
    stamp.touch()
    return True


def with_found(speed: Speed, section: Section) -> Speed:
    """The measurements with a section in the place of its older one; with the older one where nothing was found."""
    return speed.with_section(section) if section.timings or section.name not in speed.sections else speed


def _measured(name: str, find: Callable[[], Found], tests: str) -> Section:
    commit, dirty = provenance.commit()
    began, load = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), os.getloadavg()[0]
    timings: list[Timing] = []
    skipped: dict[str, str] = {}
    for item in find():
        if isinstance(item, Timing):
            timings.append(item)
            print(f"{name:24} {item.who:32} {item.what:20} {item.batch:6} {item.median:11.6f} s {item.rate:8.3f} G/s")
        else:
            skipped[item[0]] = item[1]
            print(f"{name:24} {item[0]:32} skipped: {item[1]}")
    return Section(
        name=name,
        commit=commit,
        dirty=dirty,
        versions=provenance.versions(),
        began=began,
        load=load,
        tests=tests,
        timings=tuple(timings),
        skipped=skipped,
    )


def _so_far(device: str, folder: Path) -> Speed:
    system = f"{platform.system()} {platform.machine()}"
    new = Speed(device=_device(device), threads=torch.get_num_threads(), system=system, sections={})
    path = _path(new, folder)
    return read(path) if path.exists() else new


def _path(speed: Speed, folder: Path) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", f"{speed.device} {speed.threads} threads".lower())
    return folder / f"{name}.json"


def _device(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    numbers = f"family {known.get('cpu family', '?')} model {known.get('model', '?')}"
    return f"{known.get('model name', platform.machine())} ({numbers})"


if __name__ == "__main__":
    sys.exit(main())
