"""YOLO's and Pascal VOC's layouts become the COCO json that says the same."""

import json

import pytest
from PIL import Image

from ndpp_dense.datasets import validate_coco
from ndpp_dense.datasets.coco import OtherSource, as_coco, parse_dataset_flag

pytest.importorskip("supervision", reason="supervision is not installed: extra 'formats'")

W, H = 40, 30


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (W, H), (90, 20, 200)).save(path)


@pytest.fixture
def yolo(tmp_path):
    """A set of two classes: boxes in one training image, none in the other; polygons where asked for."""

    def make(polygons=False, path=None):
        root = tmp_path / "yolo"
        for split, names in (("train", "ab"), ("val", "c")):
            for name in names:
                image(root / "images" / split / f"{name}.png")
            (root / "labels" / split).mkdir(parents=True)
        square = "1 0.25 0.2 0.75 0.2 0.75 0.8 0.25 0.8\n" if polygons else "1 0.5 0.5 0.5 0.6\n"
        (root / "labels" / "train" / "a.txt").write_text("0 0.2 0.2 0.2 0.2\n" * (not polygons) + square)
        (root / "labels" / "val" / "c.txt").write_text(square)
        lines = [f"path: {path}"] if path else []
        (root / "data.yaml").write_text(
            "\n".join([*lines, "train: images/train", "val: images/val", "names: [cat, dog]"])
        )
        return root / "data.yaml"

    return make


XML = """<annotation><filename>{name}.png</filename><size><width>40</width><height>30</height><depth>3</depth></size>
{objects}</annotation>"""
OBJECT = """<object><name>{kind}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{r}</xmax><ymax>{b}</ymax></bndbox>
</object>"""


@pytest.fixture
def voc(tmp_path):
    """Two images of two splits; each holds a class of its own, and one that both have."""
    root = tmp_path / "voc"
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, split, kinds in (("one", "train", ("dog", "cat")), ("two", "val", ("bird", "dog"))):
        image(root / "JPEGImages" / f"{name}.png")
        objects = "".join(
            OBJECT.format(kind=kind, x=5 + 9 * i, y=3, r=13 + 9 * i, b=17) for i, kind in enumerate(kinds)
        )
        (root / "Annotations" / f"{name}.xml").write_text(XML.format(name=name, objects=objects))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{name}\n")
    return root


def flags(path, name="pets"):
    return [parse_dataset_flag(f"{name}_{split}={path}") for split in ("train", "val")]


def read(source):
    return json.loads(source.json.read_text())


def boxes(document):
    names = {category["id"]: category["name"] for category in document["categories"]}
    return sorted((names[entry["category_id"]], *map(round, entry["bbox"])) for entry in document["annotations"])


@pytest.mark.parametrize("path", [None, "."])
def test_yolo_boxes(yolo, tmp_path, path):
    train, val = as_coco(flags(yolo(path=path)), tmp_path / "made")
    assert boxes(read(train)) == [("cat", 4, 3, 8, 6), ("dog", 10, 6, 20, 18)]
    assert boxes(read(val)) == [("dog", 10, 6, 20, 18)]
    for source in (train, val):
        summary = validate_coco(source.json, source.images, name=source.name)
        assert summary.categories == ("cat", "dog")
    assert len(read(train)["images"]) == 2


def test_yolo_polygons_are_masks(yolo, tmp_path):
    train, _ = as_coco(flags(yolo(polygons=True)), tmp_path / "made")
    summary = validate_coco(train.json, train.images, name=train.name, masks=True)
    assert summary.mask_format == "polygon"
    (entry,) = read(train)["annotations"]
    assert entry["area"] == pytest.approx(20 * 18, rel=0.12)


def test_voc_splits_share_their_categories(voc, tmp_path):
    train, val = as_coco(flags(voc), tmp_path / "made")
    assert [image["file_name"] for image in read(train)["images"]] == ["one.png"]
    assert read(train)["categories"] == read(val)["categories"]
    assert [category["name"] for category in read(val)["categories"]] == ["bird", "cat", "dog"]
    assert [name for name, *_ in boxes(read(train))] == ["cat", "dog"]
    assert [name for name, *_ in boxes(read(val))] == ["bird", "dog"]
    for _, x, y, width, height in boxes(read(train)):
        assert (x in range(4, 16), y in (2, 3), width in (8, 9), height in (14, 15)) == (True,) * 4


def test_what_changed_on_disk_is_read_again(yolo, tmp_path):
    file = yolo()
    as_coco(flags(file), tmp_path / "made")
    (file.parent / "labels" / "val" / "c.txt").write_text("")
    _, val = as_coco(flags(file), tmp_path / "made")
    assert read(val)["annotations"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: images/train\n", "must hold train, val and names"),
        ("[1, 2]", "must hold train, val and names"),
        ("names: [a]\ntrain: [x, y]\n", "key 'train' is"),
        ("names: [a]\ntrain: images/gone\n", "there is no folder"),
        ("names: !!python/object/apply:os.system ['true']\n", "the tag"),
        ("names: [a\n", "line 2"),
    ],
)
def test_faults_of_a_yaml(yolo, tmp_path, content, message):
    file = yolo()
    file.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        as_coco([OtherSource("pets_train", file)], tmp_path / "made")
    assert f"--dataset pets_train={file}" in str(error.value)


@pytest.mark.parametrize("line", ["0 0.5 0.5\n", "x 0.5 0.5 0.2 0.2\n", "7 0.5 0.5 0.2 0.2\n", "0 a b c d\n"])
def test_faults_of_a_label_file(yolo, tmp_path, line):
    file = yolo()
    (file.parent / "labels" / "train" / "a.txt").write_text(line)
    with pytest.raises(ValueError, match="--dataset pets_train="):
        as_coco([OtherSource("pets_train", file)], tmp_path / "made")


def test_a_voc_folder_without_lists_is_one_set(voc, tmp_path):
    (voc / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(ValueError, match=r"has no val\.txt, which says which images"):
        as_coco(flags(voc), tmp_path / "made")
    (voc / "ImageSets" / "Main" / "train.txt").unlink()
    (voc / "ImageSets" / "Main").rmdir()
    with pytest.raises(ValueError, match=r"has no val\.txt"):
        as_coco(flags(voc), tmp_path / "made")
    (train,) = as_coco(flags(voc)[:1], tmp_path / "made")
    assert len(read(train)["images"]) == 2


@pytest.mark.parametrize("content", ["", "<annotation><filename>one.png"])
def test_a_damaged_voc_file_is_a_fault_of_the_set(voc, tmp_path, content):
    (voc / "Annotations" / "one.xml").write_text(content)
    with pytest.raises(ValueError, match="--dataset pets_train="):
        as_coco(flags(voc), tmp_path / "made")


def test_other_folders_and_lists_that_name_what_is_not_there(voc, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder JPEGImages.*for YOLO give its data\.yaml"):
        as_coco([OtherSource("pets_train", voc / "Annotations")], tmp_path / "made")
    (voc / "ImageSets" / "Main" / "train.txt").write_text("one\nthree\n")
    with pytest.raises(FileNotFoundError, match="names 1 images that are not there, such as three"):
        as_coco(flags(voc), tmp_path / "made")
