from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path

import pytest

from ndpp_dense.datasets.coco import CocoSource, CocoSummary, parse_dataset_flag, validate_coco

POLYGON = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]
RLE = {"size": [10, 10], "counts": "0d3"}


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
    assert summary == CocoSummary(2, 2, ("debris", "cell"), "polygon")


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
    "entry without key": (lambda d: d["annotations"][1].pop("bbox") and d, r"1 of 2 entries .* no 'bbox' .*: 1\)"),
    "unknown image": (lambda d: d["annotations"][1].update(image_id=9) or d, r"1 annotations .*image_id.*: 2;.*: 9"),
    "unknown category": (lambda d: d["annotations"][0].update(category_id=5) or d, r"category_id.*: 1;.*: 5"),
    "flat box": (lambda d: d["annotations"][1].update(bbox=[1, 1, 0, 4]) or d, r"1 of 2 .*positive .*ids: 2\)"),
    "box of text": (lambda d: d["annotations"][1].update(bbox=["a", 1, 1, 4]) or d, r"ids: 2\)"),
    "box with nan": (lambda d: d["annotations"][1].update(bbox=[1, 1, float("nan"), 4]) or d, r"ids: 2\)"),
    "box of three": (lambda d: d["annotations"][1].update(bbox=[1, 1, 4]) or d, r"ids: 2\)"),
    "id twice": (lambda d: d["annotations"][1].update(id=1) or d, r"1 ids under 'annotations' occur twice .*: 1\)"),
    "area missing": (lambda d: d["annotations"][1].pop("area") and d, r"evaluation.* no 'area'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named(tmp_path, fault):
    spoil, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message) as raised:
        validate_coco(*_write(tmp_path, spoil(copy.deepcopy(_document()))), name="cells_val")
    assert "cells_val" in str(raised.value)
    assert "set.json" in str(raised.value)


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
    folder = Path(os.environ.get("NDPP_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    for name in ("coco_mini", "nuclei"):
        if not (folder / name).is_dir():
            pytest.skip(f"no {name} under {folder} (set NDPP_TEST_DATA)")
    return folder


def test_flag():
    source = parse_dataset_flag("cells_train=/data/train.json:/data/images")
    assert source == CocoSource("cells_train", Path("/data/train.json"), Path("/data/images"))
    assert parse_dataset_flag("a_val=~/x.json:i").json == Path.home() / "x.json"


def test_flag_with_colons_in_paths(tmp_path):
    source = parse_dataset_flag(r"c_val=C:\data\val.json:D:\data\images")
    assert (str(source.json), str(source.images)) == (r"C:\data\val.json", r"D:\data\images")
    source = parse_dataset_flag("c_val=/run/12:30/val.json:/run/12:30/images")
    assert (str(source.json), str(source.images)) == ("/run/12:30/val.json", "/run/12:30/images")
    existing = tmp_path / "a:b"
    existing.touch()
    assert parse_dataset_flag(f"c_val={existing}:x:y").json == existing
    with pytest.raises(ValueError, match="3 colons could separate"):
        parse_dataset_flag("c_val=a:b:c:d")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("/data/train.json:/data/images", "no data set name"),
        ("=/data/train.json:/data/images", "no data set name"),
        ("cells=/a.json:/b", "must end in '_train' or '_val'.*'cells_train'"),
        ("_val=/a.json:/b", "must end in"),
        ("cells_val=/a.json", "annotation file and an image folder"),
        ("cells_val=/a.json:", "annotation file and an image folder"),
        ("cells_val=:/b", "annotation file and an image folder"),
    ],
)
def test_bad_flags(flag, message):
    with pytest.raises(ValueError, match=message):
        parse_dataset_flag(flag)
