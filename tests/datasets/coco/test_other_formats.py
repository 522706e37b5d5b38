"""YOLO's and Pascal VOC's layouts become the COCO json that says the same."""

import json
import shutil

import pytest
from PIL import Image

from ndpp_dense.datasets import validate_coco
from ndpp_dense.datasets.coco import OtherSource, as_coco, parse_dataset_flag, shared_images

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
    assert entry["area"] == pytest.approx(20 * 18)


def test_voc_splits_share_their_categories(voc, tmp_path):
    train, val = as_coco(flags(voc), tmp_path / "made")
    assert [image["file_name"] for image in read(train)["images"]] == ["one.png"]
    assert read(train)["categories"] == read(val)["categories"]
    assert [category["name"] for category in read(val)["categories"]] == ["bird", "cat", "dog"]
    assert [name for name, *_ in boxes(read(train))] == ["cat", "dog"]
    assert [name for name, *_ in boxes(read(val))] == ["bird", "dog"]
    for _, x, y, width, height in boxes(read(train)):
        assert (x in (4, 13), y, width, height) == (True, 2, 9, 15)  # corners count from 1 and include the last pixel


def test_what_changed_on_disk_is_read_again(yolo, tmp_path):
    file = yolo()
    as_coco(flags(file), tmp_path / "made")
    (file.parent / "labels" / "val" / "c.txt").write_text("0 0.2 0.2 0.2 0.2\n")
    _, val = as_coco(flags(file), tmp_path / "made")
    assert boxes(read(val)) == [("cat", 4, 3, 8, 6)]
    (file.parent / "labels" / "val" / "c.txt").write_text("")
    with pytest.raises(ValueError, match="pets_val=.*no label file of its 1 images holds an object"):
        as_coco(flags(file), tmp_path / "made")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: images/train\n", "must hold train, val and names"),
        ("[1, 2]", "must hold train, val and names"),
        ("names: [a]\ntrain: [x, y]\n", "no folder of images or list"),
        ("names: [a]\ntrain: [3]\n", "key 'train' is"),
        ("names: [a]\ntrain: {x: y}\n", "key 'train' is"),
        ("names: [no, yes]\ntrain: images/train\n", "'names' hold False, which is no text to YAML: write it in"),
        ("names: {1: a, 2: b}\ntrain: images/train\n", "a list, or numbers from 0 on"),
        ("names: []\ntrain: images/train\n", "a list, or numbers from 0 on"),
        ("names: [a, b]\nnc: 3\ntrain: images/train\n", "its 'nc' is 3 and 'names' are 2"),
        ("names: [a]\nkpt_shape: [17, 3]\ntrain: images/train\n", "holds keypoints"),
        ("names: [a]\ntrain: images/train\ntrain: images/val\n", "'train' stands twice"),
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


def set_labels(file, text, name="a", split="train"):
    (file.parent / "labels" / split / f"{name}.txt").write_text(text)


TRIANGLE = (0.1004, 0.1, 0.1571, 0.1, 0.1, 0.17133)


def test_yolo_polygons_keep_their_coordinates(yolo, tmp_path):
    file = yolo()
    set_labels(file, "0 0.5 0.5 0.2 0.2\n1 " + " ".join(map(str, TRIANGLE)) + "\n")
    train, _ = as_coco(flags(file), tmp_path / "made")
    box, drawn = read(train)["annotations"]
    assert "segmentation" not in box  # and the order of the lines does not matter
    corners = [value * (W, H)[i % 2] for i, value in enumerate(TRIANGLE)]
    assert drawn["segmentation"] == [corners]
    x, y = corners[::2], corners[1::2]
    assert drawn["bbox"] == pytest.approx([min(x), min(y), max(x) - min(x), max(y) - min(y)])
    assert drawn["area"] == pytest.approx((x[1] - x[0]) * (y[2] - y[0]) / 2, abs=1e-6)
    assert drawn["source"] == "labels/train/a.txt:2"


def test_yolo_reads_sub_folders_marks_and_gaps_and_leaves_out_what_is_hidden(yolo, tmp_path):
    file = yolo()
    image(file.parent / "images" / "train" / "day 1" / "far off.PNG")
    (file.parent / "labels" / "train" / "day 1").mkdir()
    (file.parent / "labels" / "train" / "day 1" / "far off.txt").write_text(
        "\ufeff1 0.5 0.5 0.2 0.2\r\n\r\n", encoding="utf-8"
    )
    (file.parent / "images" / "train" / "._a.png").write_bytes(b"\0\5\x16\7")
    (file.parent / "labels" / "train" / "._a.txt").write_bytes(b"\0\5\x16\7\xff")
    train, _ = as_coco(flags(file), tmp_path / "made")
    assert [entry["file_name"] for entry in read(train)["images"]] == ["a.png", "b.png", "day 1/far off.PNG"]
    assert boxes(read(train))[1:] == [("dog", 10, 6, 20, 18), ("dog", 16, 12, 8, 6)]
    assert any("1 hidden (._a.png)" in line for line in train.remarks)
    assert any("1 of 3 images have no label file and count as images without objects" in line for line in train.remarks)


@pytest.mark.parametrize(
    "line", ["./images/train/a.png", "images/train/a.png", r".\images\train\a.png", r"images\train\a.png"]
)
def test_yolo_lists(yolo, tmp_path, line):
    file = yolo()
    (file.parent / "train.txt").write_text(f"{line}\n\n{line}\n")
    file.write_text("train: train.txt\nval: [images/val, images/train]\nnames: {0: cat, 1: dog}\n")
    train, val = as_coco(flags(file), tmp_path / "made")
    assert [entry["file_name"] for entry in read(train)["images"]] == ["a.png"]
    assert any("1 images are named twice" in remark for remark in train.remarks)
    assert [entry["file_name"] for entry in read(val)["images"]] == ["val/c.png", "train/a.png", "train/b.png"]
    assert validate_coco(val.json, val.images, name=val.name).num_annotations == 3
    (file.parent / "train.txt").write_text(f"{line}\nimages/gone.png\n")
    with pytest.raises(
        FileNotFoundError, match=r"1 of 2 images that .*train\.txt names are not there \(first: images/gone"
    ):
        as_coco(flags(file), tmp_path / "made")


def test_yolo_labels_beside_images(yolo, tmp_path):
    file = yolo()
    (file.parent / "images" / "train").rename(file.parent / "pictures")
    (file.parent / "labels" / "train" / "a.txt").rename(file.parent / "pictures" / "a.txt")
    file.write_text("train: pictures\nnames: [cat, dog]\n")
    (train,) = as_coco(flags(file)[:1], tmp_path / "made")
    assert len(read(train)["annotations"]) == 2
    (file.parent / "pictures" / "a.txt").unlink()
    with pytest.raises(FileNotFoundError, match="none of 2 images has a label file"):
        as_coco(flags(file)[:1], tmp_path / "made")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1 0.1 0.9", "neither 'class x y width height'"),
        ("0 0.5 0.5 0.1", "neither 'class x y width height'"),
        ("0 0.5 0.5 0.1 nan", "what is no number"),
        ("2 0.5 0.5 0.1 0.1", r"no class of 'names' \(0 to 1\)"),
        ("-1 0.5 0.5 0.1 0.1", "no class"),
        ("0.5 0.5 0.5 0.1 0.1", "no class"),
        ("0 20 15 4 5", "beyond 0 to 1: divide pixels"),
        ("0 0.5 0.5 -0.1 0.1", "beyond 0 to 1"),
    ],
)
def test_faults_of_lines_are_named_together(yolo, tmp_path, line, message):
    file = yolo()
    set_labels(file, f"0 0.2 0.2 0.2 0.2\n{line}\n")
    set_labels(file, "x\n", "b")
    with pytest.raises(ValueError, match=message) as error:
        as_coco(flags(file), tmp_path / "made")
    assert "labels/train/a.txt:2" in str(error.value)
    assert "labels/train/b.txt:1" in str(error.value)


def test_a_line_that_stands_twice_is_one_object(yolo, tmp_path):
    file = yolo()
    set_labels(file, "0 0.2 0.2 0.2 0.2\n0 0.2 0.2 0.2 0.2\n")
    train, _ = as_coco(flags(file), tmp_path / "made")
    assert len(read(train)["annotations"]) == 1
    assert "1 lines stand twice" in train.remarks[-1]


def test_sizes_are_those_of_upright_images(yolo, tmp_path):
    file = yolo()
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (W, H)).save(file.parent / "images" / "train" / "a.png", exif=exif)
    train, _ = as_coco(flags(file), tmp_path / "made")
    assert (read(train)["images"][0]["width"], read(train)["images"][0]["height"]) == (H, W)


def mark_difficult(voc, name, text="1"):
    file = voc / "Annotations" / f"{name}.xml"
    file.write_text(file.read_text().replace("</bndbox>", f"</bndbox><difficult>{text}</difficult>", 1))


def test_difficult_objects_are_not_looked_for_and_are_trained_on(voc, tmp_path):
    for name in ("one", "two"):
        mark_difficult(voc, name)
    train, val = as_coco(flags(voc), tmp_path / "made")
    assert [entry["iscrowd"] for entry in read(train)["annotations"]] == [0, 0]
    assert [entry["iscrowd"] for entry in read(val)["annotations"]] == [1, 0]
    assert "1 objects are marked difficult: training takes them as any other" in train.remarks[-1]
    assert "1 objects are marked difficult: evaluation ignores them" in val.remarks[-1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<bndbox>", "<box>", "one.xml"),
        ("<xmin>5</xmin>", "", "1 objects have no <bndbox> with the numbers xmin, ymin, xmax, ymax"),
        ("<xmin>5</xmin>", "<xmin>five</xmin>", "1 objects have no <bndbox>"),
        ("<xmax>13</xmax>", "<xmax>3</xmax>", "1 boxes end before they begin"),
        ("<name>dog</name>", "<name> </name>", "1 objects have no <name>"),
        ("<width>40</width>", "<width>30</width>", r"another <size> than their image.*one.xml: 30 x 30, not 40 x 30"),
    ],
)
def test_faults_of_voc_files_name_them(voc, tmp_path, old, new, message):
    file = voc / "Annotations" / "one.xml"
    text = file.read_text().replace(old, new, 1)
    file.write_text(text.replace("</bndbox>", "</box>", 1) if old == "<bndbox>" else text)
    with pytest.raises(ValueError, match=message) as error:
        as_coco(flags(voc), tmp_path / "made")
    assert "one.xml" in str(error.value)


def test_entities_that_grow_are_refused(voc, tmp_path):
    levels = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 20}">' for i in range(8))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "{"x" * 100}">{levels}]><annotation>&e8;</annotation>'
    (voc / "Annotations" / "one.xml").write_text(bomb)
    with pytest.raises(ValueError, match=r"no whole XML.*one\.xml"):
        as_coco(flags(voc), tmp_path / "made")


def test_voc_names_with_gaps_suffixes_and_folders(voc, tmp_path):
    image(voc / "JPEGImages" / "day 1" / "far off.png")
    (voc / "Annotations" / "day 1").mkdir()
    (voc / "Annotations" / "one.xml").rename(voc / "Annotations" / "day 1" / "far off.xml")
    (voc / "ImageSets" / "Main" / "train.txt").write_text("\ufeffday 1/far off\r\n", encoding="utf-8")
    (voc / "ImageSets" / "Main" / "val.txt").write_text("two.png\n")
    train, val = as_coco(flags(voc), tmp_path / "made")
    assert [entry["file_name"] for entry in read(train)["images"]] == ["day 1/far off.png"]
    assert [entry["file_name"] for entry in read(val)["images"]] == ["two.png"]


def test_listed_images_need_an_annotation_file(voc, tmp_path):
    (voc / "Annotations" / "one.xml").unlink()
    with pytest.raises(FileNotFoundError, match="names 1 annotation files that are not there, such as one"):
        as_coco(flags(voc), tmp_path / "made")


def test_voc_lists_that_overlap_share_images(voc, tmp_path):
    (voc / "ImageSets" / "Main" / "val.txt").write_text("one\ntwo\n")
    train, val = as_coco(flags(voc), tmp_path / "made")
    found = {source.name: validate_coco(source.json, source.images, name=source.name) for source in (train, val)}
    (line,) = shared_images({"pets_train": found["pets_train"]}, {"pets_val": found["pets_val"]})
    assert line.startswith("1 of 2 images of pets_val are in pets_train too")


def test_faults_that_only_the_whole_shows_name_their_line(yolo, tmp_path):
    file = yolo()
    set_labels(file, "\n0 0.5 0.5 0 0\n", "c", "val")
    _, val = as_coco(flags(file), tmp_path / "made")
    with pytest.raises(ValueError, match=r"positive width and height.*\(first in: labels/val/c\.txt:2\)"):
        validate_coco(val.json, val.images, name=val.name)


def test_files_in_other_encodings_and_paths_that_are_gone_are_said(yolo, tmp_path):
    file = yolo(path="/nowhere/at/all")
    train, _ = as_coco(flags(file), tmp_path / "made")
    assert "there is no folder that 'path' names: entries count from the folder of the file" in train.remarks[0]
    file.write_bytes("train: images/train\nnames: [k\xe4se]\n".encode("latin1"))
    with pytest.raises(ValueError, match=r"data\.yaml is no text in UTF-8 .*save it as such"):
        as_coco(flags(file)[:1], tmp_path / "made")


def test_a_yaml_of_nested_aliases_is_refused_in_a_line(yolo, tmp_path):
    levels = "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(12))
    for last in (
        "train: images/train\nnames: *a12",
        "train: *a12\nnames: [a]",
        "train: images/train\nnames: [a]\nnc: *a12",
    ):
        file = yolo()
        file.write_text(f"a0: &a0 [x]\n{levels}{last}\n")
        with pytest.raises(ValueError, match=r"\.\.\.") as error:
            as_coco([OtherSource("pets_train", file)], tmp_path / "made")
        assert len(str(error.value)) < 900
        shutil.rmtree(file.parent)
