"""Data must arrive with the right classes, and faults be named before they fail inside the loss."""

import os
from pathlib import Path

import numpy as np
import pytest

from ndpp_dense.datasets.streets_scene import TRAIN_IDS

pytestmark = pytest.mark.mmseg
CAMVID = Path(os.environ.get("NDPP_TEST_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "camvid"
LOAD = [{"type": "LoadCheckedImage"}, {"type": "LoadCheckedLabels"}]


def sample(kind, root, prefix, pipeline):
    from mmengine.registry import DATASETS, init_default_scope

    import ndpp_dense.integrations.mmseg  # noqa: F401

    init_default_scope("mmseg")
    config = {"type": kind, "data_root": str(root), "data_prefix": prefix, "pipeline": pipeline}
    return DATASETS.build(config)


@pytest.fixture
def check():
    from ndpp_dense.integrations.mmseg import CheckLabels

    def run(labels, size=(4, 6), num_classes=3):
        results = {"img": np.zeros((*size, 3)), "gt_seg_map": np.asarray(labels, np.uint8)}
        return CheckLabels(num_classes).transform({**results, "img_path": "a.png", "seg_map_path": "b.png"})

    return run


def test_streets_are_read_as_eight_classes_of_cityscapes(streets):
    prefix = {"img_path": "leftImg8bit/train", "seg_map_path": "gtFine/train"}
    data = sample("StreetsDataset", streets, prefix, [*LOAD, {"type": "CheckLabels", "num_classes": 8}])
    assert len(data) == 6
    assert list(data.metainfo["classes"]) == list(TRAIN_IDS)
    assert data.metainfo["palette"][0] == [128, 64, 128]
    found = np.unique(np.concatenate([np.unique(data[index]["gt_seg_map"]) for index in range(6)]))
    assert set(found) <= {*range(8), 255}
    assert len(found) >= 8


def test_streets_are_generated_where_no_folder_is_given(monkeypatch, tmp_path):
    from ndpp_dense.integrations.mmseg import data

    made = []
    monkeypatch.setattr(data, "ensure_streets", lambda: made.append(1) or tmp_path)
    data.StreetsDataset(lazy_init=True)
    assert made == [1]


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not in NDPP_TEST_DATA")
def test_camvid_is_read():
    prefix = {"img_path": "images/val", "seg_map_path": "labels/val"}
    check = {"type": "CheckLabels", "num_classes": 11, "ignore_index": 11}
    data = sample("CamVidDataset", CAMVID, prefix, [*LOAD, check])
    assert len(data) == 101
    assert data[0]["img"].shape == (360, 480, 3)


def test_good_labels_pass(check):
    assert "gt_seg_map" in check(np.full((4, 6), 2))
    assert "gt_seg_map" in check(np.full((4, 6), 255))


def test_labels_without_a_class_are_named(check):
    with pytest.raises(ValueError, match=r"b.png holds the labels 3, 33; with 3 classes they must be 0 to 2, or 255"):
        check([[0, 1, 2, 33, 3, 0]] * 4)


def test_sizes_that_differ_are_named(check):
    with pytest.raises(ValueError, match=r"b.png has 6 x 3 pixels, its image a.png 6 x 4"):
        check(np.zeros((3, 6)))


def test_labels_keep_the_size_of_the_file_where_images_are_resized():
    from ndpp_dense.integrations.mmseg import CheckLabels

    results = {"img": np.zeros((2, 3, 3)), "ori_shape": (4, 6), "gt_seg_map": np.zeros((4, 6), np.uint8)}
    results |= {"img_path": "a.png", "seg_map_path": "b.png"}
    CheckLabels(3).transform(results)
    with pytest.raises(ValueError, match="b.png has 6 x 3 pixels, its image a.png 6 x 4"):
        CheckLabels(3).transform({**results, "gt_seg_map": np.zeros((3, 6), np.uint8)})


def test_iou_by_class():
    import torch

    from ndpp_dense.integrations.mmseg import ClassIoUMetric

    metric = ClassIoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = {"classes": ["road", "car", "sky"]}
    truth, predicted = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 1]])
    metric.process({}, [{"pred_sem_seg": {"data": predicted[None]}, "gt_sem_seg": {"data": truth[None]}}])
    found = metric.evaluate(1)
    assert found["IoU-road"] == 50
    assert found["IoU-car"] == pytest.approx(66.67)
    assert np.isnan(found["IoU-sky"])
    assert found["mIoU"] == pytest.approx(58.33, abs=0.01)
