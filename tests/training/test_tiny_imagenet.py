"""Tiny ImageNet: a small folder of its layout, made here, and the real one where it is at hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib import recipes
from lib.training import tiny_imagenet
from lib.training.data import as_found, class_names, load_data

SMALL = recipes.load("tiny-imagenet/linf-dist-net-mlp", "laptop").replace(classes=3)
REAL = recipes.load("tiny-imagenet/linf-dist-net-mlp", "laptop")
WNIDS = ("n03", "n01", "n02")  # wnids.txt is not sorted either
TRAIN, VAL = 4, 5


def grey_of(wnid: str, place: int) -> int:
    return 20 * WNIDS.index(wnid) + 5 * place


def save(path: Path, grey: int, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, grey if mode == "L" else (grey, grey, grey)).save(path, "JPEG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / tiny_imagenet.FOLDER
    for wnid in WNIDS:
        for place in range(TRAIN):
            mode = "L" if (wnid, place) == ("n02", 1) else "RGB"
            save(folder / f"train/{wnid}/images/{wnid}_{place}.JPEG", grey_of(wnid, place), mode)
        (folder / f"train/{wnid}/{wnid}_boxes.txt").write_text("no image\n")
    lines = []
    for place in range(VAL):
        save(folder / f"val/images/val_{place}.JPEG", 100 + place)
        lines.append(f"val_{place}.JPEG\t{WNIDS[place % 3]}\t0\t0\t62\t62\n")
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    (folder / "words.txt").write_text("n01\tcat, true cat\nn02\tdog\nn77\tnothing here\n")
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    return tmp_path


def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    decode = tiny_imagenet._image
    monkeypatch.setattr(tiny_imagenet, "_image", lambda path: (seen.append(path), decode(path))[1])
    return seen


class TestReading:
    def test_labels_are_places_in_the_sorted_wnids(self, root: Path) -> None:
        train, val = tiny_imagenet.read(root)
        assert train.labels.tolist() == [0] * TRAIN + [1] * TRAIN + [2] * TRAIN
        assert [sorted(WNIDS)[label] for label in val.labels] == [WNIDS[place % 3] for place in range(VAL)]

    def test_classes_are_named_by_their_first_word_in_the_order_of_the_labels(self, root: Path) -> None:
        assert class_names("tiny-imagenet", root) == ["cat", "dog", "n03"]

    def test_pixels_are_those_of_the_files_and_grey_ones_have_three_equal_channels(self, root: Path) -> None:
        train, val = tiny_imagenet.read(root)
        assert (train.pixels.shape, train.pixels.dtype) == ((3 * TRAIN, 3, 64, 64), np.uint8)
        greys = [grey_of(wnid, place) for wnid in sorted(WNIDS) for place in range(TRAIN)]
        assert train.pixels[:, :, 5, 7].tolist() == [[grey] * 3 for grey in greys]
        assert val.pixels[:, 0, 0, 0].tolist() == [100, 101, 102, 103, 104]

    def test_training_images_are_whole_and_the_others_cut_to_the_centre(self, root: Path) -> None:
        path = root / tiny_imagenet.FOLDER / "val/images/val_0.JPEG"
        ramp = np.repeat(np.arange(64, dtype=np.uint8)[:, None], 64, axis=1)
        Image.fromarray(ramp).save(path, "JPEG", quality=100)
        train, test = load_data(SMALL, root)
        assert train.pixels.shape == (12, 3, 64, 64)
        assert test.pixels.shape == (5, 3, 56, 56)
        assert test.pixels[0, 0, :, 9].tolist() == pytest.approx(range(4, 60), abs=1)

    def test_a_piece_that_cannot_be_cut_from_the_middle_is_refused(self, root: Path) -> None:
        sentence = r"input_shape is \(3, 56, 64\), expected \(3, 64, 64\) for data set 'tiny-imagenet', or a crop with"
        with pytest.raises(ValueError, match=sentence):
            load_data(SMALL.replace(input_shape=(3, 56, 64)), root)

    def test_a_part_of_the_data_is_said_in_the_recipe_and_keeps_its_order(self, root: Path) -> None:
        data = load_data(SMALL, root)
        found = as_found(SMALL, data)
        assert (found.train_limit, found.test_limit) == (12, 5)
        assert torch.equal(load_data(found, root).test.labels, data.test.labels)
        assert as_found(found, data) == found

    def test_the_whole_data_set_needs_no_limit(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lib.training.data._COUNTS", {"tiny-imagenet": (12, 5)})
        assert as_found(SMALL, load_data(SMALL, root)) == SMALL


class TestCache:
    def test_images_are_decoded_once(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first, seen = tiny_imagenet.read(root), decodings(monkeypatch)
        again = tiny_imagenet.read(root)
        assert seen == []
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)
            np.testing.assert_array_equal(one.labels, other.labels)
        assert sorted(path.name for path in root.iterdir()) == [tiny_imagenet.FOLDER, tiny_imagenet.CACHE]

    def test_a_changed_image_is_seen(self, root: Path) -> None:
        tiny_imagenet.read(root)
        save(root / tiny_imagenet.FOLDER / "train/n01/images/n01_0.JPEG", 222)
        assert tiny_imagenet.read(root)[0].pixels[0, 0, 0, 0] == 222

    def test_a_new_and_a_lost_image_are_seen(self, root: Path) -> None:
        tiny_imagenet.read(root)
        images = root / tiny_imagenet.FOLDER / "train/n01/images"
        save(images / "n01_9.JPEG", 33)
        assert len(tiny_imagenet.read(root)[0].labels) == 13
        (images / "n01_9.JPEG").unlink()
        (images / "n01_0.JPEG").unlink()
        assert len(tiny_imagenet.read(root)[0].labels) == 11

    def test_a_changed_label_is_seen(self, root: Path) -> None:
        before = tiny_imagenet.read(root)[1].labels[0]
        path = root / tiny_imagenet.FOLDER / "val/val_annotations.txt"
        path.write_text(path.read_text().replace("val_0.JPEG\tn03", "val_0.JPEG\tn01"))
        assert (before, tiny_imagenet.read(root)[1].labels[0]) == (2, 0)

    @pytest.mark.parametrize("damage", ["truncated", "one bit", "foreign", "encrypted"])
    def test_a_damaged_cache_is_made_again(self, root: Path, damage: str) -> None:
        whole, cache = tiny_imagenet.read(root), root / tiny_imagenet.CACHE
        content = bytearray(cache.read_bytes())
        content[len(content) // 2] ^= 1
        locked = bytearray(cache.read_bytes())
        locked[locked.index(b"PK\x01\x02") + 8] |= 1  # the bit of the first member that says it is encrypted
        contents = {"truncated": cache.read_bytes()[:-1000], "one bit": bytes(content), "foreign": b"x"}
        cache.write_bytes((contents | {"encrypted": bytes(locked)})[damage])
        np.testing.assert_array_equal(tiny_imagenet.read(root)[0].pixels, whole[0].pixels)

    def test_a_folder_that_cannot_be_written_costs_a_warning(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object, **kwargs: object) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(np, "savez", fail)
        with pytest.warns(UserWarning, match=r"could not be kept in .*: no space left"):
            assert len(tiny_imagenet.read(root)[0].labels) == 12
        assert [path.name for path in root.iterdir()] == [tiny_imagenet.FOLDER]


class TestMissingAndDamaged:
    @pytest.mark.parametrize(
        "name", ["wnids.txt", "val/val_annotations.txt", "val/images/val_3.JPEG", "train/n02/images"]
    )
    def test_what_is_missing_is_named_with_the_ways_out(self, root: Path, name: str) -> None:
        path = root / tiny_imagenet.FOLDER / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(FileNotFoundError) as caught:
            load_data(SMALL, root)
        message = str(caught.value)
        for part in (name, str(root), "tiny-imagenet", tiny_imagenet.ADDRESS, "LINF_DATA", "data_root"):
            assert part in message
        assert "\n" not in message

    def test_no_folder_at_all_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"looked for in .*tiny-imagenet-200, which lacks wnids.txt"):
            load_data(SMALL, tmp_path)

    def test_an_image_that_is_cut_off_is_called_damaged(self, root: Path) -> None:
        path = root / tiny_imagenet.FOLDER / "train/n03/images/n03_2.JPEG"
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(ValueError, match=r"is damaged: train/n03/images/n03_2.JPEG cannot be decoded"):
            load_data(SMALL, root)

    def test_an_image_of_another_size_is_called_damaged(self, root: Path) -> None:
        save(root / tiny_imagenet.FOLDER / "val/images/val_1.JPEG", 9, size=(56, 64))
        with pytest.raises(ValueError, match=r"val_1.JPEG has 64 x 56 pixels, expected 64 x 64"):
            load_data(SMALL, root)

    def test_an_annotation_of_an_unknown_class_is_called_damaged(self, root: Path) -> None:
        (root / tiny_imagenet.FOLDER / "val/val_annotations.txt").write_text("val_0.JPEG\tn99\t0\t0\t1\t1\n")
        with pytest.raises(ValueError, match=r"gives 'val_0.JPEG' the class 'n99', expected one of wnids.txt"):
            load_data(SMALL, root)

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\xd8"])
    def test_a_list_that_is_no_list_is_called_damaged(self, root: Path, content: bytes) -> None:
        (root / tiny_imagenet.FOLDER / "wnids.txt").write_bytes(content)
        with pytest.raises(ValueError, match=r"is damaged: wnids.txt is"):
            load_data(SMALL, root)

    @pytest.mark.parametrize("content", ["n01\n\nn02\nn03\n", "n01\nn02\nn02\nn03\n"])
    def test_a_class_without_a_name_or_there_twice_is_called_damaged(self, content: str, root: Path) -> None:
        (root / tiny_imagenet.FOLDER / "wnids.txt").write_text(content)
        with pytest.raises(ValueError, match=r"is damaged: wnids.txt has a line that is empty or there twice"):
            load_data(SMALL, root)

    def test_fewer_classes_than_the_recipe_has_are_refused(self, root: Path) -> None:
        with pytest.raises(ValueError, match="classes is 200, expected 3"):
            load_data(SMALL.replace(classes=200), root)


def test_the_real_images_have_200_classes_and_the_recipes_mean(linf_data) -> None:  # type: ignore[no-untyped-def]
    train, test = load_data(REAL, linf_data("tiny-imagenet"))
    assert len(train.labels.unique()) == len(test.labels.unique()) == 200
    assert train.labels.bincount().unique().numel() == 1
    means = train.pixels[::10].float().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx(REAL.mean, abs=0.02)
