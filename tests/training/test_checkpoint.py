"""Checkpoints: whose they are, and what is no checkpoint of the run that would go on."""

import dataclasses
import errno
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.nets.models import LInfDistNet, build
from lib.theory.addernet import AdderNet
from lib.training.callbacks import AtomicIO
from lib.training.checkpoint import Origin, check_same_run, origins_of, read_checkpoint
from lib.training.endings import Unfinished
from lib.training.fit import fit
from tests.training.test_fit import images, tiny, train


def test_a_checkpoint_names_all_that_trained(tmp_path: Path) -> None:
    first = Origin("a", False, {"torch": "2.11"}, "one thread")
    second = Origin("a", False, {"torch": "2.12"}, "one thread")
    for origin in (first, first, second):
        with pytest.raises(Unfinished):
            train(tiny(), tmp_path, origin=origin, max_minutes=1e-9)
    assert origins_of(read_checkpoint(tmp_path / "last.ckpt")) == [first, second]


def test_where_nobody_said_what_trained_it_is_unknown(tmp_path: Path) -> None:
    unknown = Origin(commit="unknown", dirty=None, versions={}, device="")
    train(tiny(epochs_ramp=0, epochs_inf=0), tmp_path)
    assert origins_of(read_checkpoint(tmp_path / "last.ckpt")) == [unknown]
    assert origins_of({}) == [unknown]  # as an older version wrote it


@pytest.mark.parametrize(
    ("changes", "options", "difference"),
    [
        ({"lr": 0.5}, {}, "lr is 0.02 there, expected 0.5"),
        ({}, {"seed": 7}, "seed is 0 there, expected 7"),
        ({"train_limit": 49}, {}, "images is 50 there, expected 49"),
        ({"theta": 0.25}, {}, r"theta is .* there, expected 0\.25"),
        ({"batch_size": 17}, {}, "batch_size is 16 there, expected 17"),
        ({"flip": True}, {}, "flip is False there, expected True"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(
    changes: dict[str, Any], options: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    train(tiny(epochs_ramp=0, epochs_inf=0), tmp_path)
    with pytest.raises(ValueError, match=f"last.ckpt belongs to another run: {difference}"):
        train(tiny(epochs_ramp=0, epochs_inf=0, **changes), tmp_path, **options)


@pytest.mark.parametrize(
    ("there", "difference"), [({}, "seed is None there, expected 0"), ({"seed": 0, "lr": 1}, "lr is 1 there, expected")]
)
def test_a_checkpoint_that_says_less_or_more_of_its_run_is_refused(
    there: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    torch.save({"run": there}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=f"last.ckpt belongs to another run: {difference}"):
        check_same_run(tmp_path / "last.ckpt", {"seed": 0})


def test_what_training_does_not_read_may_change(tmp_path: Path) -> None:
    recipe = tiny(epochs_ramp=0, epochs_inf=0)
    _, history = train(recipe, tmp_path)
    other = recipe.replace(name="other", eps_test=0.05, pgd_steps=3, test_limit=9)
    assert train(other, tmp_path)[1] == history  # seconds too: nothing is trained again


def test_what_made_the_net_and_its_images_is_theirs_alone(tmp_path: Path) -> None:
    recipe = tiny(epochs_ramp=0, epochs_inf=0)
    net, history = train(recipe, tmp_path)
    made = {"width": 9, "depth": 3, "identity": 0.5, "mean": [0.3], "std": 0.7, "train_limit": 40, "validation": True}
    other = recipe.replace(**made)
    assert fit(net, other, images(recipe), seed=0, device="cpu", workdir=tmp_path, progress=False) == history


def test_a_run_does_not_go_on_with_another_net(tmp_path: Path) -> None:
    recipe, shape = tiny(epochs_ramp=0, epochs_inf=0), (1, 8, 8)
    train(recipe, tmp_path, net=LInfDistNet(shape, 10, width=7, depth=2, std=0.9))
    with pytest.raises(ValueError, match=r"belongs to another run: net.std is 0.9 there, expected 0.1;"):
        train(recipe, tmp_path, net=LInfDistNet(shape, 10, width=7, depth=2, std=0.1))
    other = AdderNet(shape, 10, width=7, depth=2, std=0.9)
    with pytest.raises(ValueError, match="belongs to another run: net is 'LInfDistNet' there, expected 'AdderNet'"):
        fit(other, recipe, images(recipe), seed=0, device="cpu", workdir=tmp_path, progress=False)


@pytest.mark.parametrize("changed", ["pixels", "labels", "scale"])
def test_a_run_does_not_go_on_with_other_images(changed: str, tmp_path: Path) -> None:
    recipe = tiny(epochs_ramp=0, epochs_inf=0)
    own = images(recipe)
    new = {"pixels": own.pixels.flip(0), "labels": own.labels.flip(0), "scale": own.scale / 2}[changed]
    for train_on in (own, dataclasses.replace(own)):
        fit(build(recipe, 0), recipe, train_on, seed=0, device="cpu", workdir=tmp_path, progress=False)
    other = dataclasses.replace(own, **{changed: new})
    with pytest.raises(ValueError, match="belongs to another run: fingerprint is"):
        fit(build(recipe, 0), recipe, other, seed=0, device="cpu", workdir=tmp_path, progress=False)


def test_a_checkpoint_cut_short_is_refused(tmp_path: Path) -> None:
    train(tiny(epochs_ramp=0, epochs_inf=0), tmp_path)
    os.truncate(tmp_path / "last.ckpt", 1000)
    with pytest.raises(ValueError, match=r"last.ckpt is damaged or no checkpoint"):
        train(tiny(epochs_ramp=0, epochs_inf=0), tmp_path)


@pytest.mark.parametrize("content", [b"", b"weights", b"\x80\x02c__builtin__\nprint\n."])
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"last.ckpt is damaged or no checkpoint"):
        train(tiny(), tmp_path)


@pytest.mark.parametrize(
    "pickled",
    [b"", *(b"\x80\x02" + damaged for damaged in (b"X\x01\x00\x00\x00\xa1.", b"h\x03.", b"a.", b"}}]s.", b"M."))],
    ids=["empty", "no text", "no such entry", "nothing to add to", "no key", "no number"],
)
def test_an_archive_with_damaged_contents_is_refused(pickled: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "last.ckpt", "w") as archive:
        for name, content in (("data.pkl", pickled), ("version", b"3"), ("byteorder", b"little")):
            archive.writestr(f"archive/{name}", content)
    with pytest.raises(ValueError, match=r"last.ckpt is damaged or no checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(ValueError, match=r"last.ckpt is damaged or no checkpoint"):
        train(tiny(), tmp_path)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"run": {}, "trap": Trap()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt is damaged or no checkpoint"):
        train(tiny(), tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"run": 1}, [1, 2], ["run"]])
def test_a_checkpoint_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt is a checkpoint of something else"):
        train(tiny(), tmp_path)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_ends_the_writing_of_one_is_raised_itself_and_leaves_the_one_before(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.RawIOBase):
        def write(self, content: Any) -> int:
            if len(content) > 1000:
                raise failure
            return len(content)

    (tmp_path / "last.ckpt").write_text("before")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: Full())
        with pytest.raises(type(failure)):
            AtomicIO().save_checkpoint({"weights": torch.zeros(1000)}, tmp_path / "last.ckpt")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_is_read_without_lightning() -> None:
    code = "import sys, lib.training.checkpoint, lib.experiments.twin; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
