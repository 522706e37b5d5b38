from __future__ import annotations

import copy
import json
import os
import re
import time
from pathlib import Path

import pytest

from ndpp_dense.datasets.coco import CocoSummary, validate_coco

POLYGON = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]
RLE = {"size": [10, 10], "counts": "0T3"}


def _document() -> dict:
    box = {"bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 10, "width": 10} for i in (1, 2)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "segmentation": POLYGON, **box},
            {"id": 2, "image_id": 2, "category_id": 3, "segmentation": POLYGON, **box},
        ],
        "categories": [{"id": 7, "name": "cell"}, {"id": 3, "name": "debris"}],
    }


def _write(folder: Path, document: object) -> tuple[Path, Path]:
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for name in ("1.png", "2.png"):
        (images / name).touch()
    path = folder / "set.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path, images


def test_summary(tmp_path):
    summary = validate_coco(*_write(tmp_path, _document()))
    assert summary == CocoSummary(2, 2, ("debris", "cell"), "polygon", (), ("1.png", 10, 10))


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
def test_mask_format(tmp_path, masks, crowd, expected):
    document = _document()
    for entry, mask in zip(document["annotations"], masks, strict=True):
        entry["segmentation"] = mask
    document["annotations"][1]["iscrowd"] = crowd
    assert validate_coco(*_write(tmp_path, document)).mask_format == expected


FAULTS = {
    "top level is a list": (lambda d: [d], r"top level is a list"),
    "section missing": (lambda d: d.pop("annotations") and d, r"no list under annotations; keys found"),
    "no images": (lambda d: {**d, "images": []}, r"'images' is empty"),
    "no annotations": (lambda d: {**d, "annotations": []}, r"'annotations' is empty"),
    "no categories": (lambda d: {**d, "categories": []}, r"'categories' is empty"),
    "entry without key": (lambda d: d["annotations"][1].pop("bbox") and d, r"1 of 2 entries .* no 'bbox'; .*: 1\)"),
    "unknown image": (lambda d: d["annotations"][1].update(image_id=9) or d, r"1 annotations .*image_id.*\(9\).*: 2\)"),
    "unknown category": (lambda d: d["annotations"][0].update(category_id=5) or d, r"category_id.*\(5\).*: 1\)"),
    "flat box": (lambda d: d["annotations"][1].update(bbox=[1, 1, 0, 4]) or d, r"1 of 2 .*positive .*ids: 2\)"),
    "box of text": (lambda d: d["annotations"][1].update(bbox=["a", 1, 1, 4]) or d, r"ids: 2\)"),
    "box with nan": (lambda d: d["annotations"][1].update(bbox=[1, 1, float("nan"), 4]) or d, r"ids: 2\)"),
    "box of three": (lambda d: d["annotations"][1].update(bbox=[1, 1, 4]) or d, r"ids: 2\)"),
    "id twice": (lambda d: d["annotations"][1].update(id=1) or d, r"1 ids under 'annotations' occur twice.*: 1\)"),
    "area missing": (lambda d: d["annotations"][1].pop("area") and d, r"no 'area', which COCO evaluation reads"),
}

NAN, INF = float("nan"), float("inf")
BIG = [[1.0, 1.0, 1e9, 1.0, 5.0, 5.0]]


def _second(**changes):
    """Changes the second annotation; None takes a key away."""

    def spoil(document):
        entry = document["annotations"][1]
        entry.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del entry[key]
        return document

    return spoil


def _rle(size, counts):
    return _second(segmentation={"size": size, "counts": counts})


def _image(**changes):
    return lambda d: d["images"][1].update(changes) or d


def _all(**changes):
    return lambda d: [entry.update(changes) for entry in d["annotations"]] and d


NO_WHOLE = r"'{}' that is not a whole number .*: {}"
FAULTS |= {
    "id is a text": (_second(id="a-1"), NO_WHOLE.format("id", "'a-1'")),
    "id is a float": (_second(id=2.0), NO_WHOLE.format("id", r"2\.0")),
    "id is true": (_second(id=True), NO_WHOLE.format("id", "True")),
    "id is a list": (_second(id=[2]), NO_WHOLE.format("id", r"\[2\]")),
    "id is null": (lambda d: d["annotations"][1].update(id=None) or d, NO_WHOLE.format("id", "None")),
    "id is enormous": (_second(id=2**60), NO_WHOLE.format("id", str(2**60))),
    "image id is a text": (_image(id="2"), NO_WHOLE.format("id", "'2'")),
    "image_id is a list": (_second(image_id=[2]), NO_WHOLE.format("image_id", r"\[2\]")),
    "image_id is a text": (_second(image_id="2"), NO_WHOLE.format("image_id", "'2'")),
    "category_id is a float": (_second(category_id=3.0), NO_WHOLE.format("category_id", r"3\.0")),
    "category without name": (lambda d: d["categories"][0].update(name="") or d, "'name' that is not a text"),
    "category name is a number": (lambda d: d["categories"][0].update(name=7) or d, "'name' that is not a text: 7"),
    "category name twice": (lambda d: d["categories"][0].update(name="debris") or d, "2 categories share a name"),
    "height is null": (_image(height=None), "'height' that is not a whole number of pixels above 0: None"),
    "height is 0": (_image(height=0), "'height' that is not a whole number of pixels above 0: 0"),
    "width is a float": (_image(width=10.0), r"'width' that is not a whole number of pixels above 0: 10\.0"),
    "width is a text": (_image(width="10"), "'width' that is not a whole number of pixels above 0: '10'"),
    "file_name is a number": (_image(file_name=2), "'file_name' that is not a text: 2"),
    "file_name with a zero": (_image(file_name="2\0.png"), "'file_name' that is not a text"),
    "iscrowd is a text": (_second(iscrowd="0"), "'iscrowd' that is not 0 or 1: '0'"),
    "iscrowd is 2": (_second(iscrowd=2), "'iscrowd' that is not 0 or 1: 2"),
    "ignore": (_second(ignore=1), "'ignore' that is not 0: mark what to ignore by iscrowd 1: 1"),
    "area is a text": (_second(area="16"), r"1 of 2 annotations have an 'area' .*ids: 2\)"),
    "area is negative": (_second(area=-16), r"1 of 2 annotations have an 'area' .*ids: 2\)"),
    "area is nan": (_second(area=NAN), r"1 of 2 annotations have an 'area' .*ids: 2\)"),
    "area is enormous": (_second(area=10**400), r"1 of 2 annotations have an 'area' .*ids: 2\)"),
    "only crowds": (_all(iscrowd=1), "all 2 annotations are crowds"),
    "no mask": (_second(segmentation=None), r"1 of 2 annotations have no segmentation, .*faster_rcnn_.*MASK_ON False"),
    "empty mask": (_second(segmentation=[]), r"1 of 2 annotations have no segmentation, .*ids: 2\)"),
    "mask is a text": (_second(segmentation="a"), "1 of 2 annotations whose 'segmentation' is neither"),
    "mask is an empty object": (_second(segmentation={}), "1 of 2 annotations whose 'segmentation' is neither"),
    "polygon is flat list": (
        _second(segmentation=[1, 1, 5, 1, 5, 5]),
        "whose 'segmentation' is neither a list of poly",
    ),
    "points as pairs": (
        _second(segmentation=[[[1, 1], [5, 1], [5, 5]]]),
        "fewer than 3 points|other things than finite",
    ),
    "two points": (_second(segmentation=[[1, 1, 5, 5]]), r"fewer than 3 points.*ids: 2\)"),
    "two points beside a whole one": (_second(segmentation=[*POLYGON, [1, 1, 5, 5]]), "fewer than 3 points"),
    "odd coordinates": (_second(segmentation=[[1, 1, 5, 1, 5, 5, 2]]), "odd number of coordinates"),
    "polygon with nan": (_second(segmentation=[[1, 1, 5, NAN, 5, 5]]), r"other things than finite numbers.*ids: 2\)"),
    "polygon with infinity": (_second(segmentation=[[1, 1, 5, INF, 5, 5]]), "other things than finite numbers"),
    "polygon with text": (_second(segmentation=[[1, 1, "5", 1, 5, 5]]), "other things than finite numbers"),
    "polygon with true": (_second(segmentation=[[1, 1, True, 1, 5, 5]]), "other things than finite numbers"),
    "polygon far away": (_second(segmentation=BIG), r"farther from its image than the image is large.*ids: 2\)"),
    "polygon of a huge integer": (_second(segmentation=[[1, 1, 10**400, 1, 5, 5]]), "other things than finite|farther"),
    "flat polygon": (_second(segmentation=[[1, 1, 5, 5, 3, 3]]), r"whose mask has no area.*ids: 2\)"),
    "RLE of swapped size": (
        lambda d: _rle([12, 10], "0X3")(_image(width=12)(d)),
        r"another 'size' than \[height, width\]",
    ),
    "RLE of float size": (_rle([10.0, 10], "0T3"), "another 'size'"),
    "RLE without counts": (_second(segmentation={"size": [10, 10]}), "whose 'segmentation' is neither"),
    "RLE too short": (_rle([10, 10], "0c2"), "'counts' that do not add up"),
    "RLE too long": (_rle([10, 10], "0T4"), "'counts' that do not add up"),
    "RLE that breaks off": (_rle([10, 10], "0T"), "'counts' that do not add up"),
    "RLE of other letters": (_rle([10, 10], "0é~"), "'counts' that do not add up"),
    "RLE of nothing": (_rle([10, 10], ""), "'counts' that do not add up"),
    "RLE without an object": (_rle([10, 10], "T3"), "whose mask has no area"),
    "list of runs too short": (_rle([10, 10], [0, 99]), "'counts' that do not add up"),
    "list of runs with floats": (_rle([10, 10], [0, 100.0]), "'counts' that do not add up"),
    "list of negative runs": (_rle([10, 10], [-10, 110]), "'counts' that do not add up"),
    "list of runs without an object": (_rle([10, 10], [100]), "whose mask has no area"),
    "negative width": (_second(bbox=[5, 1, -4, 4]), r"1 of 2 .*positive .*ids: 2\)"),
    "box of true": (_second(bbox=[1, 1, True, 4]), r"1 of 2 .*positive"),
    "box is a number": (_second(bbox=4), r"1 of 2 .*positive"),
    "box beside its image": (_second(bbox=[20, 20, 4, 4]), r"1 of 2 boxes lie wholly beside their image.*ids: 2\)"),
    "box left of its image": (_second(bbox=[-4, 1, 4, 4]), r"1 of 2 boxes lie wholly beside their image"),
    "boxes in shares": (_all(bbox=[0.1, 0.1, 0.4, 0.4]), r"2 of 2 boxes lie within 1 pixel: .*normalised"),
    "boxes as corners": (_all(bbox=[6, 6, 9, 9], segmentation=RLE), r"2 of 2 boxes fit .* only as corners"),
    "corners of polygons": (
        _all(bbox=[4, 4, 8, 8], segmentation=[[4, 4, 8, 4, 8, 8]]),
        r"2 of 2 boxes fit .* only as corners",
    ),
    "box far beyond": (
        _second(bbox=[1, 1, 100, 4], segmentation=RLE),
        r"1 of 2 boxes reach beyond .* more than its size",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named(tmp_path, fault):
    spoil, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message) as raised:
        validate_coco(*_write(tmp_path, spoil(copy.deepcopy(_document()))), name="cells_val", masks=True)
    assert "cells_val" in str(raised.value)
    assert "set.json" in str(raised.value)


def test_all_faults_are_told_together(tmp_path):
    document = _second(bbox=[1, 1, 0, 4], area="16", segmentation=[[1, 1, 5, 5]])(_document())
    document["annotations"][0]["bbox"] = [20, 20, 4, 4]
    with pytest.raises(
        ValueError, match=r"4 kinds of faults: \(1\).*3 points.*\(2\).*positive.*beside.*area"
    ) as raised:
        validate_coco(*_write(tmp_path, document), name="cells_val")
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
def test_what_is_unusual_is_warned_of(tmp_path, kind):
    split, change, message = WARNINGS[kind]
    summary = validate_coco(*_write(tmp_path, change(_document())), name=f"cells_{split}")
    assert re.search(message, " ".join(summary.warnings)), summary.warnings
    assert all(line.startswith(f"cells_{split} (") for line in summary.warnings)


def test_an_ordinary_file_has_no_warnings(tmp_path):
    for split in ("train", "val"):
        assert validate_coco(*_write(tmp_path, _document()), name=f"cells_{split}", masks=True).warnings == ()


@pytest.mark.parametrize(
    "change",
    [_second(bbox=[1.0, 1.0, 4.0, 0.0], segmentation=[[1, 1, 5, 1, 3, 1]]), _second(bbox=[20, 20, 4, 4])],
)
def test_training_leaves_out_a_few_flat_or_far_objects_with_a_word(tmp_path, change):
    document = change(_document())
    with pytest.raises(ValueError, match="1 of 2"):
        validate_coco(*_write(tmp_path, document), name="cells_train", masks=True)
    document["annotations"] += [{**document["annotations"][0], "id": number} for number in range(10, 40)]
    summary = validate_coco(*_write(tmp_path, document), name="cells_train", masks=True)
    assert re.search(r"1 of 32 boxes .* not trained on .*ids: 2\)", " ".join(summary.warnings))
    with pytest.raises(ValueError, match=r"1 of 32"):
        validate_coco(*_write(tmp_path, document), name="cells_val", masks=True)


def test_boxes_alone_are_enough_where_no_masks_are_predicted(tmp_path):
    for mask in (None, []):
        document = _document()
        for entry in document["annotations"]:
            entry["segmentation"] = mask
        validate_coco(*_write(tmp_path, document), name="cells_val", masks=False)
        with pytest.raises(ValueError, match=r"2 of 2 annotations have no segmentation.*faster_rcnn_"):
            validate_coco(*_write(tmp_path, document), name="cells_train", masks=True)


def test_json_nested_too_deep_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as COCO-format JSON"):
        validate_coco(*_write(tmp_path, "[" * 100_000))


def test_a_hundred_thousand_annotations_take_seconds(tmp_path):
    document = _document()
    shapes = ([POLYGON[0] + [4.5, 5.0, 4.0, 5.0, 3.5, 5.0, 3.0, 5.0, 2.5, 5.0]], RLE)
    document["annotations"] = [
        {**document["annotations"][0], "id": number, "segmentation": shapes[number % 2]} for number in range(1, 100_001)
    ]
    path, images = _write(tmp_path, document)
    start = time.process_time()
    validate_coco(path, images, name="cells_val", masks=True)
    assert time.process_time() - start < 20


def test_training_needs_no_area(tmp_path):
    document = _document()
    del document["annotations"][0]["area"]
    validate_coco(*_write(tmp_path, document), name="cells_train")


def test_broken_json_tells_line_and_column(tmp_path):
    with pytest.raises(ValueError, match=r"not valid JSON: .* at line 2, column 3"):
        validate_coco(*_write(tmp_path, '{"images":\n  ?'))


def test_binary_file_is_not_utf8(tmp_path):
    path, images = _write(tmp_path, "")
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        validate_coco(path, images)


def test_missing_files_and_folders(tmp_path):
    path, images = _write(tmp_path, _document())
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json does not exist"):
        validate_coco(tmp_path / "nowhere.json", images)
    with pytest.raises(FileNotFoundError, match="is a folder"):
        validate_coco(images, images)
    with pytest.raises(FileNotFoundError, match="image folder .*lost does not exist"):
        validate_coco(path, tmp_path / "lost")
    (images / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are not in .*: 2\.png\)"):
        validate_coco(path, images)


def test_images_in_subfolders_and_at_cocos_size(tmp_path, monkeypatch):
    """One listing per folder, whatever the number of images."""
    document = _document()
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
    path, images = _write(tmp_path, document)
    start = time.perf_counter()
    assert validate_coco(path, images).num_images == 100_002
    assert time.perf_counter() - start < 5
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
