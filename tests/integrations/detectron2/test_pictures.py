from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
pytest.importorskip("sklearn", reason="sklearn is not installed")

from detectron2.data import Metadata
from detectron2.data.datasets import load_coco_json
from matplotlib.figure import Figure
from PIL import Image

from ndpp_dense.datasets.digits import ensure_digits
from ndpp_dense.integrations.detectron2.pictures import save_predictions

pytestmark = [
    pytest.mark.detectron2,
    # pycocotools' decode and NumPy 2 disagree about a keyword of __array__.
]

CATEGORIES = (2, 7, 5)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    paths = ensure_digits(tmp_path_factory.mktemp("data"), num_train=1, num_val=6, size=64, categories=CATEGORIES)
    records = load_coco_json(str(paths.val_json), str(paths.val_images), "pictures_test_val")
    document = json.loads(paths.val_json.read_text(encoding="utf-8"))
    keys = ("image_id", "category_id", "bbox", "segmentation")
    perfect = [{**{key: a[key] for key in keys}, "score": 0.9} for a in document["annotations"]]
    ids = {category + 1: position for position, category in enumerate(sorted(CATEGORIES))}
    names = [str(c) for c in sorted(CATEGORIES)]
    return records, Metadata(thing_classes=names, thing_dataset_id_to_contiguous_id=ids), perfect


def _saved(monkeypatch, tmp_path, predictions, records, metadata, **more):
    """The panels of the saved sheet: for each the picture, the labels and the boxes, row by row."""
    panels = []
    save = Figure.savefig

    def spy(figure, *args, **kwargs):
        panels.extend(
            SimpleNamespace(
                picture=np.asarray(axes.get_images()[0].get_array()),
                labels=sorted(t.get_text() for t in axes.texts if t.get_rotation() == 0),
                boxes=sorted(tuple(np.round(p.get_bbox().extents, 3)) for p in axes.patches),
            )
            for axes in figure.axes
            if axes.get_images()
        )
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    save_predictions(predictions, records, metadata, tmp_path / "sheet.png", **more)
    return panels


def test_perfect_predictions_look_like_the_truth_with_scores(digits, monkeypatch, tmp_path):
    records, metadata, perfect = digits
    panels = _saved(monkeypatch, tmp_path, perfect, records, metadata, max_images=4)
    for truth, predicted in zip(panels[:4], panels[4:], strict=True):
        np.testing.assert_allclose(truth.picture, predicted.picture, atol=1e-6)
        assert truth.boxes == predicted.boxes
        assert [f"{name} 0.90" for name in truth.labels] == predicted.labels
    assert {name for panel in panels[:4] for name in panel.labels} <= {"2", "5", "7"}
    with Image.open(tmp_path / "sheet.png") as image:
        assert min(image.size) > 600


def test_low_scores_are_left_out_and_the_truth_stays(digits, monkeypatch, tmp_path):
    records, metadata, perfect = digits
    low = [{**entry, "score": 0.3} for entry in perfect]
    hidden = _saved(monkeypatch, tmp_path, low, records, metadata, max_images=2)
    assert all(panel.labels for panel in hidden[:2])
    assert not any(panel.labels or panel.boxes for panel in hidden[2:])
    shown = _saved(monkeypatch, tmp_path, low, records, metadata, max_images=2, score_threshold=0.3)
    assert all(panel.labels for panel in shown)


def test_the_mask_is_drawn_where_it_lies(digits, monkeypatch, tmp_path):
    records, metadata, perfect = digits
    panels = _saved(monkeypatch, tmp_path, [], records, metadata, max_images=1)
    truth, bare = panels[0].picture, panels[1].picture
    changed = np.abs(truth - bare).max(-1) > 0.02
    area = sum(a["area"] for a in json_annotations(records[0])) / 64**2
    assert changed.mean() == pytest.approx(area, rel=0.15)


def json_annotations(record):
    from pycocotools import mask as coco_mask

    return [{"area": int(coco_mask.area(a["segmentation"]))} for a in record["annotations"]]


def test_polygons_and_boxes_without_masks(digits, monkeypatch, tmp_path):
    records, metadata, _ = digits
    record = {**records[0], "annotations": [{**records[0]["annotations"][0], "bbox": [10, 10, 20, 20]}]}
    record["annotations"][0]["segmentation"] = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]
    box_only = {"image_id": record["image_id"], "category_id": 3, "bbox": [10, 10, 20, 20], "score": 1.0}
    truth, predicted = _saved(monkeypatch, tmp_path, [box_only], [record], metadata)
    assert truth.boxes == predicted.boxes == [(74.5, 74.5, 224.5, 224.5)]
    changed = np.abs(truth.picture - predicted.picture).max(-1) > 0.02
    assert changed[80:220, 80:220].mean() > 0.9
    assert not changed[:70].any()


def test_images_are_spread_over_the_set(digits, monkeypatch, tmp_path):
    records, metadata, _ = digits
    read = []
    module = "ndpp_dense.integrations.detectron2.pictures._read"
    monkeypatch.setattr(module, lambda name: read.append(name) or np.zeros((48, 48, 3)))
    save_predictions([], records, metadata, tmp_path / "sheet.png", max_images=3)
    assert read == [records[i]["file_name"] for i in (0, 2, 5)]


def test_bad_arguments(digits, tmp_path):
    records, metadata, _ = digits
    with pytest.raises(ValueError, match="empty"):
        save_predictions([], [], metadata, tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="got 0 and 0.5"):
        save_predictions([], records, metadata, tmp_path / "sheet.png", max_images=0)
    with pytest.raises(ValueError, match="got 8 and 50"):
        save_predictions([], records, metadata, tmp_path / "sheet.png", score_threshold=50)
