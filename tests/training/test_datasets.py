"""The published data sets: whole, of the published moments, and refused where files are missing or damaged."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from lib import recipes
from lib.training.data import batch, load_data
from lib.training.datasets import _SOURCES, Images

MNIST = recipes.load("mnist/linf-dist-net", "laptop")
FASHION = recipes.load("fashion-mnist/linf-dist-net", "laptop")
CIFAR = recipes.load("cifar10/linf-dist-net", "laptop")


@pytest.fixture
def offline(monkeypatch):
    """torchvision, told to download from nowhere."""
    torchvision = pytest.importorskip("torchvision")
    for dataset in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(dataset, "mirrors", ["file:///nowhere/"])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "file:///nowhere/cifar.tar.gz")


class TestMissingAndDamaged:
    @pytest.mark.parametrize(
        ("recipe", "file"),
        [
            (MNIST, "MNIST/raw/train-images-idx3-ubyte"),
            (FASHION, "FashionMNIST/raw/t10k-labels-idx1-ubyte"),
            (CIFAR, "cifar-10-batches-py/data_batch_3"),
        ],
    )
    def test_one_sentence_says_what_was_looked_for_where_and_the_ways_out(self, recipe, file, offline, tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            load_data(recipe, tmp_path)
        message = str(caught.value)
        for part in (recipe.dataset, str(tmp_path), file, "LINF_DATA", "data_root", "put its files there", "download"):
            assert part in message
        assert "\n" not in message

    def test_the_folder_is_data_root_else_linf_data_else_data(self, offline, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("LINF_DATA", raising=False)
        with pytest.raises(FileNotFoundError, match=str(tmp_path / "data")):
            load_data(MNIST)
        monkeypatch.setenv("LINF_DATA", str(tmp_path / "set"))
        with pytest.raises(FileNotFoundError, match=str(tmp_path / "set")):
            load_data(MNIST)
        with pytest.raises(FileNotFoundError, match=str(tmp_path / "given")):
            load_data(MNIST, str(tmp_path / "given"))

    def test_a_tilde_is_the_home_folder(self, offline, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("LINF_DATA", "~/set")
        with pytest.raises(FileNotFoundError, match=str(tmp_path / "set")):
            load_data(MNIST)

    def test_truncated_files_are_called_damaged(self, offline, linf_data, tmp_path):
        root = copy_mnist(linf_data("mnist"), tmp_path)
        path = root / "MNIST/raw/t10k-images-idx3-ubyte"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match=f"data set 'mnist' in {root} .* is damaged"):
            load_data(MNIST, root)

    def test_what_torchvision_finds_no_words_for_is_called_by_its_name(self, offline, tmp_path):
        for file in _SOURCES["mnist"].files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(bytes(16))
        with pytest.raises(ValueError, match=f"data set 'mnist' in {tmp_path} .* is damaged: AssertionError$"):
            load_data(MNIST, tmp_path)

    def test_one_wrong_bit_is_called_damaged(self, offline, linf_data, tmp_path):
        root = copy_mnist(linf_data("mnist"), tmp_path)
        path = root / "MNIST/raw/train-labels-idx1-ubyte"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"data set 'mnist' in {root} .* is damaged: SHA-256"):
            load_data(MNIST, root)

    def test_a_damaged_batch_of_cifar_10_is_called_damaged(self, offline, linf_data, tmp_path):
        shutil.copytree(linf_data("cifar10") / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py")
        (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(b"no pickle")
        with pytest.raises(ValueError, match=r"data set 'cifar10' in .* is damaged"):
            load_data(CIFAR, tmp_path)

    def test_packed_files_are_checked_and_unpacked_by_torchvision(self, offline, linf_data, tmp_path):
        root = copy_mnist(linf_data("mnist"), tmp_path, "*.gz")
        train, test = load_data(MNIST, root)
        assert (len(train), len(test)) == (60000, 10000)


class TestTheLock:
    def test_files_that_another_run_is_unpacking_are_waited_for(self, offline, linf_data, tmp_path, monkeypatch):
        root = copy_mnist(linf_data("mnist"), tmp_path)
        path = root / "MNIST/raw/t10k-labels-idx1-ubyte"
        whole = path.read_bytes()
        path.write_bytes(whole[:5000])
        (root / ".mnist.lock").touch()

        class Other(FileLock):
            def acquire(self, *arguments, **options):
                path.write_bytes(whole)
                return super().acquire(*arguments, **options)

        monkeypatch.setattr("lib.training.datasets.FileLock", Other)
        assert len(load_data(MNIST, root).test) == 10000

    def test_a_folder_that_cannot_be_written_is_read_without(self, offline, linf_data, tmp_path, monkeypatch):
        def refused(*_):
            raise PermissionError("read-only")

        root = copy_mnist(linf_data("mnist"), tmp_path)
        (root / ".mnist.lock").touch()
        monkeypatch.setattr("lib.training.datasets.FileLock", refused)
        assert len(load_data(MNIST, root).test) == 10000

    def test_files_that_are_all_there_are_read_without_a_trace(self, offline, linf_data, tmp_path):
        root = copy_mnist(linf_data("mnist"), tmp_path)
        load_data(MNIST, root)
        assert [path.name for path in root.iterdir()] == ["MNIST"]


def copy_mnist(source: Path, target: Path, pattern: str = "*-ubyte") -> Path:
    (target / "MNIST/raw").mkdir(parents=True)
    for path in (source / "MNIST/raw").glob(pattern):
        shutil.copy(path, target / "MNIST/raw")
    return target


class TestRealData:
    @pytest.mark.parametrize(
        ("recipe", "train_count", "mean", "std"),
        [(MNIST, 60000, [0.1307], 0.3081), (FASHION, 60000, [0.2860], 0.3530)],
    )
    def test_grey_images_have_the_published_counts_and_moments(self, recipe, train_count, mean, std, linf_data):
        train, test = load_data(recipe, linf_data(recipe.dataset))
        assert (len(train), len(test)) == (train_count, 10000)
        pixels = batch(train, torch.arange(len(train)))
        assert pixels.shape[1:] == (1, 28, 28)
        assert (pixels.min(), pixels.max()) == (0, 1)
        assert pixels.mean().item() == pytest.approx(mean[0], abs=1e-4)
        assert pixels.std().item() == pytest.approx(std, abs=1e-4)

    def test_cifar_10_has_its_channels_first(self, linf_data):
        train, test = load_data(CIFAR, linf_data("cifar10"))
        assert (train.pixels.shape, test.pixels.shape) == ((50000, 3, 32, 32), (10000, 3, 32, 32))
        assert (train.pixels.float().mean((0, 2, 3)) / 255).tolist() == pytest.approx(CIFAR.mean, abs=1e-4)
        assert test.labels.bincount().tolist() == [1000] * 10


class TestImages:
    images = Images(torch.arange(24, dtype=torch.uint8).view(4, 1, 2, 3), torch.tensor([3, 1, 2, 0]), 1 / 255)

    def test_a_subset_keeps_images_and_labels_together(self):
        part = self.images.subset(torch.tensor([2, 0]))
        assert len(part) == 2
        assert part.labels.tolist() == [2, 3]
        assert part.pixels[0].flatten().tolist() == [12, 13, 14, 15, 16, 17]
        assert part.scale == self.images.scale

    def test_labels_of_any_integers_and_pixels_of_any_precision_are_images(self):
        taken = Images(self.images.pixels.double() / 255, self.images.labels.to(torch.uint8), 1)
        assert taken.labels.dtype is torch.int64
        assert torch.equal(taken.labels, self.images.labels)
        torch.testing.assert_close(batch(taken, taken.labels), batch(self.images, self.images.labels))

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"pixels": np.zeros((4, 1, 2, 3))}, "pixels are of type ndarray, expected a Tensor"),
            ({"labels": [3, 1, 2, 0]}, "labels are of type list, expected a Tensor"),
            ({"pixels": torch.zeros(4, 1, 2, 3).long()}, "pixels are of torch.int64, expected torch.uint8 or floating"),
            ({"labels": torch.zeros(4)}, "labels are of torch.float32, expected integers"),
            ({"labels": torch.ones(4, dtype=torch.bool)}, "labels are of torch.bool, expected integers"),
            ({"labels": torch.zeros(4, dtype=torch.complex64)}, "labels are of torch.complex64, expected integers"),
            ({"labels": torch.arange(5)}, r"shapes \[4, 1, 2, 3\] and \[5\], expected \[N, C, H, W\] and \[N\]"),
            ({"pixels": torch.zeros(4, 2, 3)}, r"shapes \[4, 2, 3\] and \[4\]"),
            ({"labels": torch.tensor([0, 1, -1, 2])}, "labels begin at -1, expected numbers from 0 on"),
            ({"scale": 1}, r"pixels \* scale lies between 0 and 23, expected numbers in \[0, 1\]"),
            ({"pixels": torch.full((4, 1, 2, 3), -1.0)}, "pixels . scale lies between -0.00"),
            ({"pixels": torch.full((4, 1, 2, 3), torch.nan)}, "pixels . scale lies between nan and nan"),
            ({"scale": 0}, "scale is 0, expected a finite number above 0"),
            (
                {"scale": float("inf"), "pixels": torch.zeros(4, 1, 2, 3)},
                "scale is inf, expected a finite number above 0",
            ),
            ({"scale": "1/255"}, "scale is '1/255', expected a finite number above 0"),
        ],
    )
    def test_what_is_no_labelled_images_is_refused_in_one_sentence(self, changes, sentence):
        with pytest.raises((TypeError, ValueError), match=sentence):
            Images(**vars(self.images) | changes)

    def test_they_move_to_a_device(self, monkeypatch):
        monkeypatch.setattr("lib.training.datasets._check_values", lambda *_: None)  # which meta has none of
        moved = self.images.to("meta")
        assert moved.pixels.device.type == moved.labels.device.type == "meta"
