"""Where a number came from: the commit of the code and the versions of what it stood on."""

import os
import platform
import subprocess
import warnings
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_PACKAGES = (
    *("linf-dist-book", "numpy", "torch", "triton", "numba", "lightning", "foolbox", "safetensors", "torchvision"),
    "scikit-learn",
)


def commit(root: Path = ROOT) -> tuple[str, bool | None]:
    """The commit of the code in `root` and whether lib/ or recipes/ differ from it.

    Where there is no git the commit is LINF_COMMIT and the second entry None; without either it is "unknown", said
    in a warning.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    # an installed copy may lie inside somebody else's repository
    if top is not None and Path(top).resolve() == root.resolve():
        head, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--", "lib", "recipes")
        if head is not None and changes is not None:
            return head, bool(changes)
    named = os.environ.get("LINF_COMMIT", "").strip()
    if not named:
        warnings.warn(f"the commit of {root} is unknown, expected a git checkout or LINF_COMMIT", stacklevel=2)
    return named or "unknown", None


def versions() -> dict[str, str]:
    """Versions of Python, of this book and of the packages that take part in a run, those that are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
