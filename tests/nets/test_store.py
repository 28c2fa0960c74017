"""Saved nets come back whole, and nothing else comes back at all."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lib.nets.models import ConvLInfDistNetMLP, LInfDistNet, LInfDistNetMLP, Net
from lib.nets.sortnet import SortNet
from lib.nets.store import load, save

NETS: list[Net] = [
    LInfDistNet((1, 4, 4), 3, width=8, depth=3, mean=0.1307, std=0.3081, identity=0.0),
    SortNet((1, 4, 4), 3, width=12, depth=3, keep_prob=0.75, top_k=5),
    LInfDistNetMLP((1, 4, 4), 3, width=8, depth=2, hidden=5),
    ConvLInfDistNetMLP((3, 4, 4), 3, width=2, hidden=5, mean=(0.1, 0.2, 0.3)),
]


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_a_reloaded_net_gives_the_same_logits_bit_for_bit(net: Net, tmp_path: Path) -> None:
    x = torch.rand(9, *net.input_shape)
    net.train()(x, 8.0)
    save(net, tmp_path / "net.safetensors")
    back = load(tmp_path / "net.safetensors")
    assert not back.training
    assert back.std == net.std
    assert torch.equal(net.eval()(x), back(x))
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load(tmp_path / "none.safetensors")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(NETS[0], path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        load(path)


@pytest.mark.parametrize(
    "header",
    [None, {}, {"architecture": "{"}, {"architecture": '{"class": "Evil", "arguments": {}}'}, {"architecture": "3"}],
)
def test_a_foreign_file_is_refused(header: dict | None, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "net.safetensors", metadata=header)
    with pytest.raises(ValueError, match="must hold the architecture of one of LInfDistNet"):
        load(tmp_path / "net.safetensors")


@pytest.mark.parametrize("width", [9, 10**9])  # the latter would not fit into any memory
def test_tensors_that_do_not_fit_are_refused(width: int, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=2)
    net.config["width"] = width
    save(net, path)
    sentence = rf"must hold the tensors of the net in its header, got .* of shape \[8.*expected \[{width}"
    with pytest.raises(ValueError, match=sentence):
        load(path)


def test_non_finite_weights_are_refused(tmp_path: Path) -> None:
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=2)
    net.top.bias.data[1] = float("nan")
    save(net, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"non-finite entry in top\.bias"):
        load(tmp_path / "net.safetensors")


def test_a_failed_save_leaves_the_old_file_and_no_partial_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    save(NETS[0], path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("lib.nets.store.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save(NETS[1], path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_net_of_other_precision_is_refused(tmp_path: Path) -> None:
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=2).double()
    with pytest.raises(TypeError, match=r"float32 to be saved, got torch.float64 in layers.0.weight"):
        save(net, tmp_path / "net.safetensors")


@pytest.mark.parametrize("change", [{"std": 0.1}, {"mean": torch.tensor([0.5]).view(1, 1, 1)}])
def test_a_normalisation_that_the_file_would_not_hold_is_refused(change: dict, tmp_path: Path) -> None:
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=2, mean=0.25, std=0.5)
    for name, value in change.items():
        setattr(net.normalize, name, value)
    with pytest.raises(ValueError, match=r"the mean and std it was built with to be saved, \[0.25\] and 0.5, got"):
        save(net, tmp_path / "net.safetensors")


def test_numbers_of_numpy_and_torch_are_saved_as_plain_ones(tmp_path: Path) -> None:
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=2, mean=torch.tensor([0.25]), std=np.float32(0.5))  # type: ignore[arg-type]
    save(net, tmp_path / "net.safetensors")
    back = load(tmp_path / "net.safetensors")
    assert back.std == 0.5 and back.normalize.mean.item() == 0.25


def test_only_nets_of_the_library_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="net must be one of LInfDistNet"):
        save(torch.nn.Linear(2, 2), tmp_path / "net.safetensors")  # type: ignore[arg-type]
