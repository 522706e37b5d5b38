from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ndpp_dense.datasets.coco import CocoSummary, shared_images, validate_coco
from ndpp_dense.datasets.coco.sizes import Sizes

POLYGON = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]
RLE = {"size": [10, 10], "counts": "0T3"}


def _second(**changes):
    """Changes the second annotation; None takes a key away."""

    def spoil(document):
        entry = document["annotations"][1]
        entry.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del entry[key]
        return document

    return spoil


def _image(**changes):
    return lambda d: d["images"][1].update(changes) or d


def test_summary(tmp_path, document, write):
    summary = validate_coco(*write(tmp_path, document))
    assert summary.sizes == Sizes(2, 10.0, 10.0, (0.4, 0.4, 0.4), 1)
    assert replace(summary, sizes=CocoSummary.sizes) == CocoSummary(
        2, 2, ("debris", "cell"), "polygon", (), ("1.png", 10, 10)
    )


@pytest.mark.parametrize(
    ("masks", "crowd", "expected"),
    [
        ((POLYGON, POLYGON), 0, "polygon"),
        ((RLE, RLE), 0, "bitmask"),
        ((POLYGON, RLE), 0, "mixed"),
        ((POLYGON, RLE), 1, "polygon"),
        ((None, None), 0, "none"),
    ],
)
def test_mask_format(tmp_path, masks, crowd, expected, document, write):
    for entry, mask in zip(document["annotations"], masks, strict=True):
        entry["segmentation"] = mask
    document["annotations"][1]["iscrowd"] = crowd
    assert validate_coco(*write(tmp_path, document)).mask_format == expected


def test_all_faults_are_told_together(tmp_path, document, write):
    document = _second(bbox=[1, 1, 0, 4], area="16", segmentation=[[1, 1, 5, 5]])(document)
    document["annotations"][0]["bbox"] = [20, 20, 4, 4]
    with pytest.raises(
        ValueError, match=r"4 kinds of faults: \(1\).*3 points.*\(2\).*positive.*beside.*area"
    ) as raised:
        validate_coco(*write(tmp_path, document), name="cells_val")
    assert "\n" not in str(raised.value)


WARNINGS = {
    "id 0": ("val", _second(id=0), "1 annotation ids are below 1"),
    "negative id": ("val", _second(id=-7), "1 annotation ids are below 1"),
    "one file twice": ("train", _image(file_name="./1.png"), "2 of 2 images share their file"),
    "image without object": ("train", _second(image_id=1), r"1 of 2 images have no object .*image ids: 2\)"),
    "image with a crowd": ("train", _second(iscrowd=1), "1 of 2 images have no object"),
    "category without object": ("val", _second(category_id=7), r"1 of 2 categories have no object .*: debris\)"),
    "box beyond": (
        "val",
        _second(bbox=[1, 1, 12, 4], area=40),
        "1 of 2 boxes reach beyond their image by more than 5%",
    ),
    "box unlike its polygon": ("train", _second(bbox=[1, 1, 9, 9]), "1 of 2 boxes differ from the extent"),
    "area of nothing": ("val", _second(area=0), "1 of 2 areas are under 1%"),
    "area of another scale": ("val", _second(area=1600), "1 of 2 areas are under 1% or over 110%"),
}


@pytest.mark.parametrize("kind", WARNINGS)
def test_what_is_unusual_is_warned_of(tmp_path, kind, document, write):
    split, change, message = WARNINGS[kind]
    summary = validate_coco(*write(tmp_path, change(document)), name=f"cells_{split}")
    assert re.search(message, " ".join(summary.warnings)), summary.warnings
    assert all(line.startswith(f"cells_{split} (") for line in summary.warnings)


def test_an_ordinary_file_has_no_warnings(tmp_path, document, write):
    for split in ("train", "val"):
        assert validate_coco(*write(tmp_path, document), name=f"cells_{split}", masks=True).warnings == ()


@pytest.mark.parametrize(
    "change",
    [_second(bbox=[1.0, 1.0, 4.0, 0.0], segmentation=[[1, 1, 5, 1, 3, 1]]), _second(bbox=[20, 20, 4, 4])],
)
def test_training_leaves_out_a_few_flat_or_far_objects_with_a_word(tmp_path, change, document, write):
    document = change(document)
    with pytest.raises(ValueError, match="1 of 2"):
        validate_coco(*write(tmp_path, document), name="cells_train", masks=True)
    document["annotations"] += [{**document["annotations"][0], "id": number} for number in range(10, 40)]
    summary = validate_coco(*write(tmp_path, document), name="cells_train", masks=True)
    assert re.search(r"1 of 32 boxes .* not trained on .*ids: 2\)", " ".join(summary.warnings))
    with pytest.raises(ValueError, match=r"1 of 32"):
        validate_coco(*write(tmp_path, document), name="cells_val", masks=True)


def test_boxes_alone_are_enough_where_no_masks_are_predicted(tmp_path, document, write):
    for mask in (None, []):
        for entry in document["annotations"]:
            entry["segmentation"] = mask
        validate_coco(*write(tmp_path, document), name="cells_val", masks=False)
        with pytest.raises(ValueError, match=r"2 of 2 annotations have no segmentation.*faster_rcnn_"):
            validate_coco(*write(tmp_path, document), name="cells_train", masks=True)


def test_json_nested_too_deep_is_refused(tmp_path, write):
    with pytest.raises(ValueError, match="cannot be read as COCO-format JSON"):
        validate_coco(*write(tmp_path, "[" * 100_000))


def test_a_hundred_thousand_annotations_take_seconds(tmp_path, document, write):
    shapes = ([POLYGON[0] + [4.5, 5.0, 4.0, 5.0, 3.5, 5.0, 3.0, 5.0, 2.5, 5.0]], RLE)
    document["annotations"] = [
        {**document["annotations"][0], "id": number, "segmentation": shapes[number % 2]} for number in range(1, 100_001)
    ]
    path, images = write(tmp_path, document)
    start = time.process_time()
    validate_coco(path, images, name="cells_val", masks=True)
    assert time.process_time() - start < 20


def test_training_needs_no_area(tmp_path, document, write):
    del document["annotations"][0]["area"]
    validate_coco(*write(tmp_path, document), name="cells_train")


def test_broken_json_tells_line_and_column(tmp_path, write):
    with pytest.raises(ValueError, match=r"not valid JSON: .* at line 2, column 3"):
        validate_coco(*write(tmp_path, '{"images":\n  ?'))


def test_binary_file_is_not_utf8(tmp_path, write):
    path, images = write(tmp_path, "")
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        validate_coco(path, images)


def test_missing_files_and_folders(tmp_path, document, write):
    path, images = write(tmp_path, document)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json does not exist"):
        validate_coco(tmp_path / "nowhere.json", images)
    with pytest.raises(FileNotFoundError, match="is a folder"):
        validate_coco(images, images)
    with pytest.raises(FileNotFoundError, match="image folder .*lost does not exist"):
        validate_coco(path, tmp_path / "lost")
    (images / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are not in .*: 2\.png\)"):
        validate_coco(path, images)


def test_images_in_subfolders_and_at_cocos_size(tmp_path, monkeypatch, document, write):
    """One listing per folder, whatever the number of images."""
    folder = tmp_path / "images" / "sub"
    folder.mkdir(parents=True)
    document["images"] += [
        {"id": i, "file_name": f"sub/{i}.png", "height": 10, "width": 10} for i in range(10, 100_010)
    ]
    names = [f"{i}.png" for i in range(10, 100_010)]
    listdir = os.listdir
    listed: list[str] = []

    def fake_listdir(path):
        listed.append(str(path))
        return names if str(path) == str(folder) else listdir(path)

    monkeypatch.setattr(os, "listdir", fake_listdir)
    path, images = write(tmp_path, document)
    start = time.process_time()
    assert validate_coco(path, images).num_images == 100_002
    assert time.process_time() - start < 5
    assert len(listed) == 2


def test_real_sets_are_valid(data_folder):
    for name, kind in (("coco_mini", "polygon"), ("nuclei", "bitmask")):
        for path in sorted((data_folder / name / "annotations").glob("*.json")):
            split = "val" if "val" in path.stem else "train"
            images = data_folder / name / "images"
            if (images / split).is_dir():
                images = images / split
            assert validate_coco(path, images, name=f"{name}_{split}").mask_format == kind


@pytest.fixture
def data_folder() -> Path:
    folder = Path(os.environ.get("NDPP_TEST_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
    for name in ("coco_mini", "nuclei"):
        if not (folder / name).is_dir():
            pytest.skip(f"no {name} under {folder} (set NDPP_TEST_DATA)")
    return folder


def test_a_mark_of_byte_order_is_no_fault(tmp_path, document, write):
    path, images = write(tmp_path, document)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert validate_coco(path, images).num_images == 2


def test_keypoints_that_are_right_and_that_are_missing(tmp_path, document, write):
    document["categories"][1]["keypoints"] = ["head", "hand"]
    assert validate_coco(*write(tmp_path, document)).keypoints == ("head", "hand")
    document["annotations"][1].update(keypoints=[1, 2, 2, 0, 0, 0], num_keypoints=1)
    assert validate_coco(*write(tmp_path, document), name="cells_val").keypoints == ("head", "hand")
    with pytest.raises(ValueError, match="1 of 2 annotations have no 'keypoints', and the model predicts them"):
        validate_coco(*write(tmp_path, document), keypoints=True)
    del document["annotations"][1]["num_keypoints"]
    with pytest.raises(ValueError, match="1 annotations have no 'num_keypoints', which COCO evaluation reads"):
        validate_coco(*write(tmp_path, document), keypoints=True, evaluated=True)


def test_images_that_are_trained_on_and_evaluated_are_counted(document, write, tmp_path):
    path, images = write(tmp_path, document)
    first, second = (validate_coco(path, images, name=f"cells_{split}") for split in ("train", "val"))
    (line,) = shared_images({"cells_train": first}, {"cells_val": second})
    assert line.startswith("2 of 2 images of cells_val are in cells_train too (first: ")
    assert shared_images({"cells": first}, {"cells": first}) == []  # asked for, by name
    (tmp_path / "other").mkdir()
    other = validate_coco(*write(tmp_path / "other", document), name="other_val")
    assert shared_images({"cells_train": first}, {"other_val": other}) == []
