"""What the tests of certificates, attacks and their inputs share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def flushing() -> Iterator[None]:
    """A thread that counts denormals as zero."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor keeps denormals")
    yield
    torch.set_flush_denormal(False)
