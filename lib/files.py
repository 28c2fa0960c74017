"""How files come to be: whole, or not at all."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
