"""How a net is run wherever it is judged."""

import pytest
import torch

from lib.nets.models import LInfDistNetMLP
from lib.robustness import inputs
from lib.robustness.inputs import executed_logits


def test_logits_are_those_of_evaluation_mode_in_whatever_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = LInfDistNetMLP((1, 3, 3), 4, width=8, depth=2, hidden=5), torch.rand(50, 1, 3, 3)
    expected = net.eval()(x)
    net.train()
    for chunk in (1000, 7):
        monkeypatch.setattr(inputs, "CHUNK", chunk)
        logits = executed_logits(net, x)
        torch.testing.assert_close(logits, expected)
        assert not logits.requires_grad and net.training
    assert executed_logits(net, x[:0]).shape == (0, 4)
