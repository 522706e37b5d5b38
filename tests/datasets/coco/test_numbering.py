"""Ids below 1 do not change what evaluation finds."""

from __future__ import annotations

import contextlib
import io

import pytest

from ndpp_dense.datasets.coco import renumber_annotations

pytest.importorskip("pycocotools", reason="pycocotools is not installed")


def _average_precision(ids, renumber):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    boxes = [[10.0 * number, 10.0, 8.0, 8.0] for number in range(len(ids))]
    shared = {"image_id": 1, "category_id": 1, "iscrowd": 0, "area": 64.0}
    truth.dataset = {
        "info": {},
        "images": [{"id": 1, "height": 99, "width": 99, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": number, "bbox": box, **shared} for number, box in zip(ids, boxes, strict=True)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        changed = renumber_annotations(truth) if renumber else False
        found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9 - box[0] / 1000} for box in boxes]
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0], changed


@pytest.mark.parametrize("ids", [[0, 1, 2], [-1, 0, 5], ["a", "b", "c"], [1.5, 2.5, 0.0]])
def test_any_ids_give_what_whole_ones_above_0_give(ids):
    expected, changed = _average_precision([1, 2, 3], renumber=True)
    assert expected == pytest.approx(1)
    assert not changed
    assert _average_precision(ids, renumber=True) == (expected, True)


def test_pycocotools_does_need_it():
    assert _average_precision([0, 1, 2], renumber=False)[0] < 0.9
