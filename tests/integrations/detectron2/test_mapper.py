from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")

import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from PIL import Image

from ndpp_dense.integrations.detectron2.mapper import CheckedDatasetMapper

pytestmark = pytest.mark.detectron2


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "picture.png"
    # Few grey levels: the file is really compressed, so that damage shows (bytes that are merely stored hide it).
    pixels = np.random.default_rng(0).integers(0, 7, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    annotation = {
        "bbox": [5, 5, 20, 20],
        "bbox_mode": 1,
        "category_id": 0,
        "iscrowd": 0,
        "segmentation": [[5.0, 5.0, 25.0, 5.0, 25.0, 25.0, 5.0, 25.0]],
    }
    return {"file_name": str(path), "image_id": 7, "height": 40, "width": 60, "annotations": [annotation]}


def _mappers(is_train: bool):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (32, 48)
    return CheckedDatasetMapper(cfg, is_train), DatasetMapper(cfg, is_train)


@pytest.mark.parametrize("is_train", [True, False])
def test_same_output_as_detectron2(record, is_train):
    outputs = []
    for mapper in _mappers(is_train):
        np.random.seed(0)
        torch.manual_seed(0)
        outputs.append(mapper(record))
    ours, theirs = outputs
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])
    if is_train:
        assert torch.equal(ours["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor)
        assert torch.equal(ours["instances"].gt_classes, theirs["instances"].gt_classes)


@pytest.mark.parametrize("damage", ["truncated", "not an image", "empty", "overwritten"])
def test_damaged_image_is_named(record, damage):
    path = record["file_name"]
    with open(path, "rb") as stream:
        data = stream.read()
    spoiled = {
        "truncated": data[: len(data) // 2],
        "not an image": b"<html>404</html>",
        "empty": b"",
        "overwritten": data[:100] + b"\xff" * 300 + data[400:],
    }
    with open(path, "wb") as stream:
        stream.write(spoiled[damage])
    with pytest.raises(ValueError, match=r"cannot read image .*picture\.png: .* Restore, convert or remove it"):
        _mappers(True)[0](record)


def test_missing_image_is_named(record):
    record["file_name"] += ".gone"
    with pytest.raises(FileNotFoundError, match=r"picture\.png\.gone"):
        _mappers(False)[0](record)


@pytest.mark.parametrize("is_train", [True, False])
def test_another_size_than_the_record_says_is_named(record, is_train):
    record["height"] = 41
    with pytest.raises(ValueError, match=r"picture\.png \(image_id 7, 60 x 40 pixels\): Mismatched"):
        _mappers(is_train)[0](record)


def test_too_thin_an_image_is_named(record):
    Image.new("RGB", (4000, 1)).save(record["file_name"])
    record.update(height=1, width=4000)
    with pytest.raises(ValueError, match=r"picture\.png \(image_id 7, 4000 x 1 pixels\)"):
        _mappers(False)[0](record)


def test_sixteen_bits_are_what_eight_are(record):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    Image.fromarray(pixels).save(record["file_name"])
    eight = _mappers(False)[0](record)["image"]
    Image.fromarray(pixels.astype(np.uint16) * 257).save(record["file_name"])
    assert torch.equal(_mappers(False)[0](record)["image"], eight)


def test_semantic_labels_are_checked(record, tmp_path):
    labels = tmp_path / "labels.png"
    record["sem_seg_file_name"] = str(labels)
    Image.fromarray(np.full((40, 60), 259, np.uint16)).save(labels)
    with pytest.raises(ValueError, match=r"labels\.png have 60 x 40 pixels, labels up to 259"):
        _mappers(True)[0](record)
    Image.fromarray(np.full((41, 60), 3, np.uint8)).save(labels)
    with pytest.raises(ValueError, match=r"labels\.png have 60 x 41 pixels"):
        _mappers(True)[0](record)
    Image.fromarray(np.full((40, 60), 3, np.uint8)).save(labels)
    assert _mappers(True)[0](record)["sem_seg"].unique().tolist() == [3]
