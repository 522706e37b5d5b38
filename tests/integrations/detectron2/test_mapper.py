from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: tools/install_detectron2.py")

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
    with pytest.raises(OSError, match=r"cannot read image .*picture\.png \(image_id 7\).*Restore the file"):
        _mappers(True)[0](record)


def test_missing_image_is_named(record):
    record["file_name"] += ".gone"
    with pytest.raises(FileNotFoundError, match=r"picture\.png\.gone"):
        _mappers(False)[0](record)


def test_other_errors_pass_through(record):
    record["height"] = 41
    from detectron2.data.detection_utils import SizeMismatchError

    with pytest.raises(SizeMismatchError, match="picture"):
        _mappers(True)[0](record)
