"""Layout, suffixes and the ignored label of folders of images and label images are found out, or the fault is named."""

import numpy as np
import pytest
from PIL import Image

from ndpp_dense.datasets.label_folders import find_label_folder, read_class_names


@pytest.fixture
def make(tmp_path):
    """Returns a function that writes two training and one validation image in a layout."""

    def write(layout="{kind}/{split}", images="images", labels="labels", suffix=".jpg", label=".png", **options):
        values = options.get("values", [0, 1, 2])
        splits = options.get("splits", ("train", "val"))
        for split in splits:
            for kind in (images, labels):
                (tmp_path / layout.format(kind=kind, split=split)).mkdir(parents=True)
            for name in ("a", "ab")[: 2 if split == splits[0] else 1]:
                folder = tmp_path / layout.format(kind=images, split=split)
                Image.new("RGB", (8, 6)).save(folder / f"{name}{suffix}")
                pixels = np.resize(np.array(values, dtype=np.uint8), (6, 8))
                folder = tmp_path / layout.format(kind=labels, split=split)
                Image.fromarray(pixels).save(folder / f"{name}{label}")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("options", "train"),
    [
        ({}, ("images/train", "labels/train")),
        ({"layout": "{split}/{kind}"}, ("train/images", "train/labels")),
        ({"images": "img_dir", "labels": "ann_dir"}, ("img_dir/train", "ann_dir/train")),
        ({"layout": "{split}/{kind}", "labels": "masks", "splits": ("training", "validation")},
         ("training/images", "training/masks")),
    ],
)  # fmt: skip
def test_layouts(make, options, train):
    found = find_label_folder(make(**options), 3)
    assert found.prefixes["train"] == train
    assert found.counts == {"train": 2, "val": 1}
    assert (found.image_suffix, found.label_suffix, found.ignore_index) == (".jpg", ".png", 255)


@pytest.mark.parametrize(("suffix", "label"), [(".png", "_mask.png"), (".JPG", ".png"), (".tif", "_L.tif")])
def test_suffixes(make, suffix, label):
    found = find_label_folder(make(suffix=suffix, label=label), 3)
    assert (found.image_suffix, found.label_suffix) == (suffix, label)


@pytest.mark.parametrize(("values", "ignored"), [([0, 1, 255], 255), ([0, 2, 3], 3), ([0, 11], 11), ([0, 1], 255)])
def test_one_label_may_be_no_class(make, values, ignored):
    assert find_label_folder(make(values=values), 3).ignore_index == ignored


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [([1, 2, 3], 3, "look counted from 1"), ([0, 255], 2, "Write 255 as 1"), ([0, 2], 2, "Write 2 as 1")],
)
def test_labels_that_are_no_numbers_of_classes(make, values, classes, message):
    with pytest.raises(ValueError, match=message):
        find_label_folder(make(values=values), classes)


def test_faults_are_named(make):
    root = make(values=[0, 5, 7, 9])
    with pytest.raises(ValueError, match=r"labels 5, 7, 9 are no classes \(3 are named: 0 to 2\)"):
        find_label_folder(root, 3)
    (root / "labels" / "train" / "ab.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images .* have no labels \(first: labels/train/ab"):
        find_label_folder(root, 10)
    Image.new("RGB", (8, 6)).save(root / "images" / "val" / "b.png")
    with pytest.raises(ValueError, match=r"several suffixes \(3 in \.jpg, 1 in \.png\)"):
        find_label_folder(root, 10)
    with pytest.raises(FileNotFoundError, match="no folders of images and labels.*there is train, val"):
        find_label_folder(root / "images", 10)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        find_label_folder(root / "gone", 10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one\n", "names 1 classes"),
        ("a\nb\na\n", "names 'a' twice"),
        ("", "names 0 classes"),
        (b"\xff\xfe\x00", "no text"),
    ],
)
def test_faults_of_a_list_of_names(tmp_path, content, message):
    file = tmp_path / "names.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_class_names(file)
    with pytest.raises(FileNotFoundError, match="names one class a line"):
        read_class_names(tmp_path / "gone.txt")


def test_names_are_read_in_order(tmp_path):
    (tmp_path / "names.txt").write_text("\ufeffsky\n\n road \n", encoding="utf-8")
    assert read_class_names(tmp_path / "names.txt") == ["sky", "road"]
