"""Saved nets come back whole, and nothing else comes back at all."""

import io
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lib.nets.layers import LInfDist, LInfDistConv2d
from lib.nets.models import ConvLInfDistNetMLP, LInfDistNet, LInfDistNetMLP, Net, ReLUNet
from lib.nets.prune import prune
from lib.nets.sortnet import SortLinear, SortNet
from lib.nets.store import load, save
from lib.theory.addernet import with_batch_norm

NETS: list[Net] = [
    LInfDistNet((1, 4, 4), 3, width=8, depth=3, mean=0.1307, std=0.3081, identity=0.0),
    SortNet((1, 4, 4), 3, width=12, depth=3, keep_prob=0.75, top_k=5),
    LInfDistNetMLP((1, 4, 4), 3, width=8, depth=2, hidden=5),
    ConvLInfDistNetMLP((3, 4, 4), 3, width=2, hidden=5, mean=(0.1, 0.2, 0.3)),
    ReLUNet((3, 4, 4), 3, width=2, depth=7, hidden=5, mean=(0.1, 0.2, 0.3)),
    ReLUNet((1, 28, 28), 10, width=1, depth=4, hidden=4),  # of fewer weights than pixels
]


@pytest.mark.parametrize("net", NETS, ids=lambda net: f"{type(net).__name__}-{list(net.input_shape)}")
def test_a_reloaded_net_gives_the_same_logits_bit_for_bit(net: Net, tmp_path: Path) -> None:
    x = torch.rand(9, *net.input_shape)
    net.train()(x, 8.0)
    save(net, tmp_path / "net.safetensors")
    back = load(tmp_path / "net.safetensors")
    assert not back.training
    assert back.std == net.std
    assert torch.equal(net.eval()(x), back(x))
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_weight_that_lies_in_memory_by_columns_is_saved_like_any_other(tmp_path: Path) -> None:
    net, x = plain().eval(), torch.rand(5, 1, 4, 4)
    net.layers[1].weight.data = net.layers[1].weight.data.T.contiguous().T
    save(net, tmp_path / "net")
    assert torch.equal(load(tmp_path / "net")(x), net(x))


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


def forge(path: Path, net: Net, tensors: dict[str, torch.Tensor] | None = None, **arguments: object) -> None:
    """A file with some arguments in its header, and its tensors, changed."""
    header = {"class": type(net).__name__, "arguments": net.config | arguments}
    save_file(net.state_dict() if tensors is None else tensors, path, metadata={"architecture": json.dumps(header)})


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    forge(tmp_path / "net", LInfDistNet((1, 4, 4), 3, width=8, depth=2), width=9)
    with pytest.raises(ValueError, match=r"must hold the tensors .* in its header, got .* of shape \[8.*expected \[9"):
        load(tmp_path / "net")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"width": 10**9}, r"width must be at most 163 for these tensors, got 1000000000\)"),
        ({"depth": 20_000}, r"depth must be at most 4 for these tensors, got 20000\)"),
        ({"input_shape": [1, 10**12, 10**12]}, ""),
        ({"input_shape": [1, 100_000, 3000]}, r"pixels must be at most 163 for these tensors, got 300000000\)"),
        ({"input_shape": [2**40, 4, 4]}, r"channels must be at most 163 for these tensors, got 1099511627776\)"),
        ({"input_shape": [[1], 2**40, 1]}, r"input_shape must be three integers, got \[\[1\], 1099511627776, 1\]\)"),
        ({"input_shape": ["ab", 2**40, 1]}, r"input_shape must be three integers, got \['ab', 1099511627776, 1\]\)"),
        ({"input_shape": [1, 4]}, r"input_shape must be three integers, got \[1, 4\]\)"),
        ({"width": True}, ""),
        ({"width": "8"}, ""),
        ({"std": 10**400}, ""),
    ],
)
def test_a_header_that_asks_for_the_impossible_is_refused_at_once(
    arguments: dict[str, object], reason: str, tmp_path: Path
) -> None:
    forge(tmp_path / "net", LInfDistNet((1, 4, 4), 3, width=8, depth=2), **arguments)
    before = time.perf_counter()
    with pytest.raises(ValueError, match=f"must hold the architecture of one of .* in its header, got .*{reason}"):
        load(tmp_path / "net")
    assert time.perf_counter() - before < 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"depth": 5}, "depth must be at most 8|depth must be one of 4, 7, got 5"),
        ({"hidden": 10**9}, "hidden must be at most 269"),
        ({"input_shape": [1, 3, 4]}, r"input_shape must hold the kernels of depth 4, got \(1, 3, 4\)"),
        ({"input_shape": [2**40, 8, 8]}, "channels must be at most 269"),
        ({"input_shape": [1, 2**40, 2**40]}, ""),
    ],
)
def test_a_header_of_a_relu_net_that_cannot_be_is_refused_at_once(
    arguments: dict[str, object], reason: str, tmp_path: Path
) -> None:
    forge(tmp_path / "net", ReLUNet((1, 8, 8), 3, width=2, depth=4, hidden=5), **arguments)
    before = time.perf_counter()
    with pytest.raises(ValueError, match=f"must hold the (architecture|tensors) .*{reason}"):
        load(tmp_path / "net")
    assert time.perf_counter() - before < 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int8])
def test_tensors_of_another_type_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=2)
    forge(tmp_path / "net", net, {name: tensor.to(dtype) for name, tensor in net.state_dict().items()})
    with pytest.raises(ValueError, match=f"must hold float32 tensors, got {dtype} in layers.0.shift.running_mean"):
        load(tmp_path / "net")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_non_finite_weights_are_refused_by_both(value: str, tmp_path: Path) -> None:
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=2)
    net.top.bias.data[1] = float(value)
    forge(tmp_path / "net", net)
    with pytest.raises(ValueError, match=r"must hold finite tensors, got a non-finite entry in top\.bias"):
        load(tmp_path / "net")
    with pytest.raises(ValueError, match=r"finite weights to be saved, got a non-finite entry in top\.bias"):
        save(net, tmp_path / "net")


def test_saving_and_loading_leave_the_generator_where_it_is(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    save(NETS[0], tmp_path / "net")
    load(tmp_path / "net")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_net_is_loaded_to_the_cpu_whatever_the_default_device(tmp_path: Path) -> None:
    save(NETS[0], tmp_path / "net")
    with torch.device("meta"):
        net = load(tmp_path / "net")
    assert {tensor.device.type for tensor in (*net.state_dict().values(), net.normalize.mean)} == {"cpu"}


def test_a_net_loaded_in_inference_mode_can_be_trained(tmp_path: Path) -> None:
    save(NETS[0], tmp_path / "net")
    with torch.inference_mode():
        net = load(tmp_path / "net")
    net.train()(torch.rand(4, *net.input_shape), 8.0).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


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


def test_who_may_read_a_file_is_up_to_the_folder_as_for_any_other(tmp_path: Path) -> None:
    save(NETS[0], tmp_path / "net")
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "net").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(NETS[0], tmp_path / "net")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def plain() -> LInfDistNet:
    return LInfDistNet((1, 4, 4), 3, width=12, depth=3)


def sorting(q: float = 0.7) -> SortNet:
    return SortNet((1, 4, 4), 3, width=12, depth=3, keep_prob=q)


def convolving() -> ConvLInfDistNetMLP:
    return ConvLInfDistNetMLP((1, 4, 4), 3, width=2, hidden=5)


def place(net: Net, layer: nn.Module, at: int = 1) -> Net:
    net.layers[at] = layer
    return net


def tied(net: Net) -> Net:
    net.layers[2].weight = net.layers[1].weight
    return net


def longer(net: Net) -> Net:
    net.layers.append(LInfDist(12, 12))
    return net


OTHERS: dict[str, tuple[Callable[[], Net], str]] = {
    "other probability": (
        lambda: place(sorting(), SortLinear(12, 12, keep_prob=0.3)),
        "to be saved, got keep_prob 0.3 in layers.1, expected 0.7",
    ),
    "fewer places": (
        lambda: place(sorting(), SortLinear(12, 12, keep_prob=0.7, top_k=3)),
        r"to be saved, got coefficients \(0\.7.*\) in layers.1, expected \(0\.7",
    ),
    "other neurons": (
        lambda: place(plain(), SortLinear(12, 12, keep_prob=0.3)),
        "to be saved, got class SortLinear in layers.1, expected LInfDist",
    ),
    "wider layer": (
        lambda: place(plain(), LInfDist(12, 13)),
        r"to be saved, got weight \[13, 12\] in layers.1, expected \[12, 12\]",
    ),
    "one layer more": (
        lambda: longer(plain()),
        "to be saved, got class LInfDist in layers.2, expected None",
    ),
    "a list in the place of a layer": (
        lambda: place(plain(), nn.ModuleList([LInfDist(12, 12)])),
        "LInfDist or .* as its layer to be saved, got a ModuleList",
    ),
    "other stride": (
        lambda: place(convolving(), LInfDistConv2d(2, 4, 3, stride=1, padding=1), 2),
        "to be saved, got stride 1 in layers.2, expected 2",
    ),
    "tied weights": (
        lambda: tied(LInfDistNet((1, 4, 4), 3, width=12, depth=4)),
        "own in every place to be saved, got one in layers.1.weight, layers.2.weight",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_would_come_back_as_another_net_is_refused_and_leaves_the_old_file(other: str, tmp_path: Path) -> None:
    make, sentence = OTHERS[other]
    path = tmp_path / "net"
    save(NETS[0], path)
    before = path.read_bytes()
    with pytest.raises((ValueError, TypeError), match=sentence):
        save(make(), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_layers_of_other_libraries_and_hooks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"layers alone to be saved, got BatchNorm layers\.0\.shift"):
        save(with_batch_norm(plain()), tmp_path / "net")
    net = plain()
    net.top.register_forward_hook(lambda module, inputs, output: -output)
    with pytest.raises(ValueError, match="no forward hooks to be saved, got some on LInfDist top"):
        save(net, tmp_path / "net")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path must lie in a folder that is there, got .*none/net"):
        save(plain(), tmp_path / "none" / "net")


def test_a_folder_or_an_open_file_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=r"path must be that of a file, got the folder .*"):
        save(plain(), tmp_path)
    for call in (lambda path: save(plain(), path), load):
        with pytest.raises(TypeError, match="path must be a path, got BytesIO"):
            call(io.BytesIO())


@pytest.mark.parametrize("value", [3, "the best so far", [1, 2], None, torch.zeros(2), nn.Parameter(torch.zeros(2))])
@pytest.mark.parametrize("place", ["", "layers.1"])
@pytest.mark.parametrize("name", ["notes", "lists"])  # pruned parts alone have lists
def test_attributes_of_ones_own_are_refused_whatever_they_are(
    name: str, place: str, value: object, tmp_path: Path
) -> None:
    net = plain()
    setattr(net.get_submodule(place), name, value)
    sentence = rf"no attributes of your own to be saved, .*, got {name} in {place or 'LInfDistNet'}"
    with pytest.raises(ValueError, match=sentence):
        save(net, tmp_path / "net")


def test_what_tools_note_on_a_net_is_in_nobodys_way(tmp_path: Path) -> None:
    net = plain()
    net._counted = [1, 2]  # type: ignore[assignment]
    save(net, tmp_path / "net")
    assert not hasattr(load(tmp_path / "net"), "_counted")


def test_a_net_that_was_pruned_is_saved_as_it_was_before(tmp_path: Path) -> None:
    net = plain().eval()
    pruned = prune(net)
    save(pruned, tmp_path / "net")
    x = torch.rand(5, *net.input_shape)
    assert torch.equal(load(tmp_path / "net")(x), net(x))
    pruned.layers[1].notes = "x"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"no attributes of your own to be saved, .*, got notes in layers\.1"):
        save(pruned, tmp_path / "net")


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
    with pytest.raises(TypeError, match="net must be one of LInfDistNet"):
        save(torch.nn.Linear(2, 2), tmp_path / "net.safetensors")  # type: ignore[arg-type]


def test_what_a_file_would_not_hold_is_refused(tmp_path: Path) -> None:
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=2)
    net.layers[0].bias = torch.randn(8)  # type: ignore[union-attr, assignment]  # no parameter
    with pytest.raises(ValueError, match=r"got bias \[8\] in layers.0, expected None"):
        save(net, tmp_path / "net.safetensors")
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=2)
    net.top.register_state_dict_post_hook(lambda module, state, *_: state.clear())
    with pytest.raises(ValueError, match="no hooks on its state to be saved, got some on top"):
        save(net, tmp_path / "net.safetensors")
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=2)
    net.register_state_dict_pre_hook(lambda module, *_: module.top.weight.zero_())
    with pytest.raises(ValueError, match="no hooks on its state to be saved, got some on itself"):
        save(net, tmp_path / "net.safetensors")
    net = LInfDistNet((1, 4, 4), 3, width=8, depth=2)
    shift = net.layers[0].shift
    shift.register_buffer("running_mean", torch.randn(8), persistent=False)  # type: ignore[operator, union-attr]
    with pytest.raises(
        ValueError, match=r"all its tensors in its state to be saved, got none of layers\.0\.shift\.runn"
    ):
        save(net, tmp_path / "net.safetensors")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_the_default_type_of_torch_changes_nothing(net: Net, dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.rand(5, *net.input_shape)
    save(net, tmp_path / "net.safetensors")
    torch.set_default_dtype(dtype)
    try:
        back = load(tmp_path / "net.safetensors")
        save(back, tmp_path / "again.safetensors")
    finally:
        torch.set_default_dtype(torch.float32)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()
    assert torch.equal(net.eval()(x), back(x))
    assert {v.dtype for v in (*back.parameters(), *back.buffers())} == {torch.float32}
