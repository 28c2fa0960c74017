"""What a recipe trains and evaluates on: hold-out, limits, centres, and the names of classes."""

import hashlib

import pytest
import torch
from torch import Tensor

from lib import recipes
from lib.training.data import as_found, batch, centre, class_names, load_data
from lib.training.datasets import Images

DIGITS = recipes.load("digits/linf-dist-net", "laptop")
MNIST = recipes.load("mnist/linf-dist-net", "laptop")


def digest(*tensors: Tensor) -> str:
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


def keys(images: Images) -> list[bytes]:
    return [image.numpy().tobytes() for image in images.pixels]


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

    @pytest.mark.parametrize(("published", "limit"), [(1437, 0), (1438, 1150)])
    def test_what_validation_holds_out_is_not_missing(self, published, limit, monkeypatch):
        monkeypatch.setattr("lib.training.data._COUNTS", {"digits": (published, 360)})
        recipe = DIGITS.replace(validation=True)
        assert as_found(recipe, load_data(recipe)) == recipe.replace(train_limit=limit)

    def test_a_recipe_that_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match=r"input_shape is \(1, 8, 9\), expected \(1, 8, 8\)"):
            load_data(DIGITS.replace(input_shape=(1, 8, 9)))
        # larger images are no reason to cut
        with pytest.raises(ValueError, match=r"input_shape is \(1, 5, 5\), expected \(1, 8, 8\) for .* 'digits'$"):
            load_data(DIGITS.replace(input_shape=(1, 5, 5)))
        with pytest.raises(ValueError, match="classes is 9, expected 10"):
            load_data(DIGITS.replace(classes=9))


@pytest.mark.parametrize(
    ("dataset", "label", "name"),
    [("digits", 7, "7"), ("mnist", 0, "0"), ("cifar10", 3, "cat"), ("fashion-mnist", 6, "shirt")],
)
def test_labels_have_names(dataset, label, name):
    assert class_names(dataset)[label] == name
    assert len(class_names(dataset)) == 10


def test_an_unknown_data_set_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown data set 'cifar-10', did you mean 'cifar10'\?$"):
        class_names("cifar-10")


def test_validation_holds_out_5000(linf_data):
    train, test = load_data(MNIST.replace(validation=True), linf_data("mnist"))
    assert (len(train), len(test)) == (55000, 5000)


def test_another_data_set_of_larger_images_is_refused(linf_data):
    with pytest.raises(ValueError, match=r"^input_shape is \(1, 8, 8\), expected \(1, 28, 28\) for data set 'mnist'$"):
        load_data(DIGITS.replace(dataset="mnist"), linf_data("mnist"))


def test_the_centre_of_a_larger_image_lies_a_pixel_higher_where_it_cannot_be_exact():
    x = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(centre(x, (5, 5)), x[:, :, 1:6, 1:6])
    assert torch.equal(centre(x, (6, 8)), x[:, :, 1:7])


def test_white_is_exactly_one_and_no_image_gives_no_pixels():
    white = Images(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([0]), 1 / 255)
    assert batch(white, torch.tensor([0])).unique().tolist() == [1.0]
    assert batch(white, torch.tensor([], dtype=torch.int64)).shape == (0, 1, 2, 2)
