import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib import recipes
from lib.training.data import Images, augment, batch, class_names, epoch_order, load_data, step_generator

DIGITS = recipes.load("digits/linf-dist-net", "laptop")
MNIST = recipes.load("mnist/linf-dist-net", "laptop")
FASHION = recipes.load("fashion-mnist/linf-dist-net", "laptop")
CIFAR = recipes.load("cifar10/linf-dist-net", "laptop")


def digest(*tensors: Tensor) -> str:
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


def keys(images: Images) -> list[bytes]:
    return [image.numpy().tobytes() for image in images.pixels]


@pytest.fixture
def offline(monkeypatch):
    """torchvision, told to download from nowhere."""
    torchvision = pytest.importorskip("torchvision")
    for dataset in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(dataset, "mirrors", ["file:///nowhere/"])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "file:///nowhere/cifar.tar.gz")


class TestDigits:
    def test_the_split_never_changes(self):
        train, test = load_data(DIGITS)
        assert (len(train), len(test)) == (1437, 360)
        assert digest(train.pixels, train.labels) == "662e33a2e9c99c1f"
        assert digest(test.pixels, test.labels) == "973417cfcf53301f"

    def test_the_split_is_stratified_and_complete(self):
        train, test = load_data(DIGITS)
        shares = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
        assert shares.tolist() == pytest.approx([0.2] * 10, abs=0.005)
        from sklearn.datasets import load_digits

        everything = load_digits().images.astype("uint8")
        assert sorted(keys(train) + keys(test)) == sorted(image.tobytes() for image in everything)

    def test_a_batch_is_pixels_divided_by_16(self):
        train, _ = load_data(DIGITS)
        x = batch(train, torch.tensor([3, 1, 3]))
        assert (x.shape, x.dtype) == ((3, 1, 8, 8), torch.float32)
        assert torch.equal(x[1], train.pixels[1] / 16)
        assert torch.equal(x[0], x[2])

    def test_validation_holds_out_training_images_only(self):
        train = load_data(DIGITS).train
        kept, held_out = load_data(DIGITS.replace(validation=True))
        assert (len(kept), len(held_out)) == (1150, 287)
        assert sorted(keys(kept) + keys(held_out)) == sorted(keys(train))
        assert len(held_out.labels.unique()) == 10
        assert digest(held_out.pixels, held_out.labels) == "94313d12a2212d1a"

    def test_limits_keep_the_first_of_a_fixed_permutation(self):
        few, more = (load_data(DIGITS.replace(train_limit=n, test_limit=n // 2)) for n in (100, 300))
        assert [len(part) for part in (*few, *more)] == [100, 50, 300, 150]
        assert torch.equal(few.train.pixels, more.train.pixels[:100])
        assert torch.equal(few.test.labels, more.test.labels[:50])
        assert len(few.train.labels.unique()) == 10
        assert digest(few.train.pixels, few.train.labels) == "30e30dd2c1b2d73b"

    def test_limits_count_what_validation_leaves(self):
        train, test = load_data(DIGITS.replace(validation=True, train_limit=1150, test_limit=100))
        assert (len(train), len(test)) == (1150, 100)
        with pytest.raises(ValueError, match="train_limit is 1151, expected at most the 1150"):
            load_data(DIGITS.replace(validation=True, train_limit=1151))
        with pytest.raises(ValueError, match="test_limit is 361, expected at most the 360"):
            load_data(DIGITS.replace(test_limit=361))

    def test_a_limit_that_leaves_nothing_out_changes_nothing(self):
        whole, limited = load_data(DIGITS), load_data(DIGITS.replace(train_limit=1437, test_limit=360))
        assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(whole, limited, strict=True))

    def test_smaller_recipes_evaluate_on_the_centres(self):
        (train, test), whole = load_data(DIGITS.replace(input_shape=(1, 5, 5))), load_data(DIGITS)
        assert torch.equal(train.pixels, whole.train.pixels)
        assert torch.equal(test.pixels, whole.test.pixels[:, :, 1:6, 1:6])

    def test_a_recipe_that_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match=r"input_shape is \(1, 8, 9\), expected \(1, 8, 8\)"):
            load_data(DIGITS.replace(input_shape=(1, 8, 9)))
        with pytest.raises(ValueError, match=r"input_shape is \(1, 7, 8\), expected \(1, 8, 8\)"):
            load_data(DIGITS.replace(input_shape=(1, 7, 8)))
        with pytest.raises(ValueError, match="classes is 9, expected 10"):
            load_data(DIGITS.replace(classes=9))


@pytest.mark.parametrize(
    ("dataset", "label", "name"),
    [("digits", 7, "7"), ("mnist", 0, "0"), ("cifar10", 3, "cat"), ("fashion-mnist", 6, "shirt")],
)
def test_labels_have_names(dataset, label, name):
    assert class_names(dataset)[label] == name
    assert len(class_names(dataset)) == 10


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

    def test_truncated_files_are_called_damaged(self, offline, linf_data, tmp_path):
        root = copy_mnist(linf_data("mnist"), tmp_path)
        path = root / "MNIST/raw/t10k-images-idx3-ubyte"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match=f"data set 'mnist' in {root} .* is damaged"):
            load_data(MNIST, root)

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

    def test_validation_holds_out_5000(self, linf_data):
        train, test = load_data(MNIST.replace(validation=True), linf_data("mnist"))
        assert (len(train), len(test)) == (55000, 5000)


class TestImages:
    images = Images(torch.arange(24, dtype=torch.uint8).view(4, 1, 2, 3), torch.tensor([3, 1, 2, 0]), 1 / 255)

    def test_a_subset_keeps_images_and_labels_together(self):
        part = self.images.subset(torch.tensor([2, 0]))
        assert len(part) == 2
        assert part.labels.tolist() == [2, 3]
        assert part.pixels[0].flatten().tolist() == [12, 13, 14, 15, 16, 17]
        assert part.scale == self.images.scale

    def test_they_move_to_a_device(self):
        moved = self.images.to("meta")
        assert moved.pixels.device.type == moved.labels.device.type == "meta"

    def test_white_is_exactly_one_and_no_image_gives_no_pixels(self):
        white = Images(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([0]), 1 / 255)
        assert batch(white, torch.tensor([0])).unique().tolist() == [1.0]
        assert batch(white, torch.tensor([], dtype=torch.int64)).shape == (0, 1, 2, 2)


def augment_by_loops(x: Tensor, crop_padding: int, edge: bool, flip: bool, generator: torch.Generator) -> Tensor:
    """The same draws, applied image by image and pixel by pixel."""
    count, _, height, width = x.shape
    top, left = torch.zeros(2, count, dtype=torch.int64)
    if crop_padding:
        top, left = torch.randint(2 * crop_padding + 1, (2, count), generator=generator) - crop_padding
    mirrored = torch.randint(2, (count, 1, 1, 1), generator=generator).flatten() if flip else torch.zeros(count)
    out = torch.zeros_like(x)
    for b in range(count):
        for row in range(height):
            for column in range(width):
                r, c = row + int(top[b]), column + int(left[b])
                inside = 0 <= r < height and 0 <= c < width
                if inside or edge:
                    nearest = x[b, :, min(max(r, 0), height - 1), min(max(c, 0), width - 1)]
                    out[b, :, row, width - 1 - column if mirrored[b] else column] = nearest
    return out


class TestAugment:
    @given(
        shape=st.tuples(st.integers(0, 5), st.sampled_from([1, 3]), st.integers(1, 7), st.integers(1, 7)),
        crop_padding=st.integers(0, 3),
        edge=st.booleans(),
        flip=st.booleans(),
        seed=st.integers(0, 100),
    )
    @settings(deadline=None, max_examples=50)
    def test_each_image_is_cropped_from_its_padding_then_mirrored(self, shape, crop_padding, edge, flip, seed):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        generator = step_generator(seed, 0, 0)
        out = augment(x, crop_padding=crop_padding, crop_edge=edge, flip=flip, generator=generator)
        assert torch.equal(out, augment_by_loops(x, crop_padding, edge, flip, step_generator(seed, 0, 0)))

    def test_larger_images_are_cropped_at_every_offset_equally_often(self):
        x = torch.arange(36.0).view(1, 1, 6, 6).expand(8100, 1, 6, 6)
        out = augment(x, crop_padding=0, flip=False, generator=step_generator(0, 0, 0), size=(4, 4))
        assert out.shape == (8100, 1, 4, 4)
        corners = out[:, 0, 0, 0].int().bincount(minlength=15)[[0, 1, 2, 6, 7, 8, 12, 13, 14]]
        assert (corners / 900).tolist() == pytest.approx([1] * 9, abs=0.15)
        assert torch.equal(out[:, 0] - out[:, :, :1, 0:1][:, 0], (x[0, 0, :4, :4]).expand(8100, 4, 4))

    def test_without_crop_and_flip_nothing_changes_and_nothing_is_drawn(self):
        x, generator = torch.rand(3, 1, 4, 4), step_generator(0, 0, 0)
        before = generator.get_state()
        assert torch.equal(augment(x, crop_padding=0, flip=False, generator=generator), x)
        assert torch.equal(generator.get_state(), before)

    def test_every_offset_and_both_sides_occur_about_equally_often(self):
        dot = torch.zeros(9000, 1, 5, 4)
        dot[:, :, 2, 1] = 1
        out = augment(dot, crop_padding=1, flip=False, generator=step_generator(0, 0, 0)).mean((0, 1))
        assert out[1:4, 0:3].flatten().tolist() == pytest.approx([1 / 9] * 9, abs=0.015)
        mirrored = augment(dot, crop_padding=0, flip=True, generator=step_generator(0, 0, 0)).mean((0, 1))
        assert mirrored[2, 1:3].tolist() == pytest.approx([0.5, 0.5], abs=0.02)


class TestDraws:
    def test_an_epoch_sees_every_image_once(self):
        for n in (0, 1, 63, 500):
            assert epoch_order(n, seed=1, epoch=2).sort().values.tolist() == list(range(n))

    def test_draws_depend_on_seed_epoch_and_step_alone(self):
        def first(*place: int) -> int:
            return int(torch.randint(2**62, (1,), generator=step_generator(*place)))

        places = [(seed, epoch, step) for seed in (0, 1, 2**40) for epoch in (0, 1, 70) for step in (0, 1, 300)]
        assert len({first(*place) for place in places}) == len(places)
        assert [first(*place) for place in places] == [first(*place) for place in places]

    def test_the_order_depends_on_seed_and_epoch(self):
        orders = [epoch_order(500, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
        assert len({tuple(order.tolist()) for order in orders}) == 4
        assert torch.equal(orders[1], epoch_order(500, 0, 1))

    def test_the_order_does_not_share_its_draws_with_the_first_step(self):
        assert not torch.equal(epoch_order(500, 3, 4), torch.randperm(500, generator=step_generator(3, 4, 0)))

    def test_the_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        epoch_order(10, 0, 0)
        augment(torch.rand(0, 1, 4, 4), crop_padding=1, flip=True, generator=step_generator(0, 0, 0))
        assert torch.equal(torch.get_rng_state(), before)
