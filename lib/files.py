"""Where data sets lie; how files come to be, whole or not at all; and JSON that a person can read."""

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def data_folder(named: Any = None) -> Path:
    """The folder of the data sets: the one that is named, else LINF_DATA, else data/; "~" is the home folder."""
    return Path(str(named or os.environ.get("LINF_DATA") or "data")).expanduser()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name for a new file, which takes the place of `path` at once when the block ends.

    A block that fails leaves the old file, and nothing of the new one. Every call has a name of its own, also among
    machines that share the folder.
    """
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def compact_json(body: Any, depth: int) -> str:
    """Indented JSON in which what lies deeper than so many levels stands on one line; NaN and infinity are refused."""
    text = json.dumps(body, indent=1, allow_nan=False)
    deeper = "\n" + " " * (depth + 1) + " *"  # before what lies below the last level that has lines of its own
    closing = "\n" + " " * depth + r"(?=[}\]])"  # before the bracket that ends it
    return re.sub(f"{deeper}|{closing}", " ", text) + "\n"
