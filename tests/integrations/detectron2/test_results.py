from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tabulate", reason="tabulate is not installed")

from ndpp_dense.integrations.detectron2.results import format_results

BOXES = {"AP": 40.126, "AP50": 70.0, "APs": math.nan, "AP-0": 30.0, "AP-cat": math.nan}
MASKS = {"AP": np.float64(38.0), "AP50": 69.5, "APs": 1.0, "AP-0": 29.0, "AP-cat": 20.04}


def test_table():
    assert format_results({"bbox": BOXES, "segm": MASKS}).splitlines() == [
        "         AP    AP50    APs",
        "-----  ----  ------  -----",
        "boxes  40.1    70.0      -",
        "masks  38.0    69.5    1.0",
        "",
        "AP by category      boxes    masks",
        "----------------  -------  -------",
        "0                    30.0     29.0",
        "cat                     -     20.0",
        '"-": the data set holds no such objects.',
    ]


def test_one_table_for_each_data_set():
    text = format_results({"a_val": {"bbox": {"AP": 1.0}}, "b_val": {"bbox": {"AP": 2.0}, "segm": {"AP": 3.0}}})
    assert text.index("a_val") < text.index("1.0") < text.index("b_val") < text.index("2.0") < text.index("3.0")
    assert '"-"' not in text


def test_nothing_evaluated():
    assert format_results({}) == "No results: nothing was evaluated."
    assert "nothing was evaluated" in format_results({"a_val": {}, "b_val": {}})


@pytest.mark.parametrize("harm", ["names", "predictions", "drawing"])
def test_results_are_written_whatever_happens_to_pictures(build_tiny, tmp_path, monkeypatch, caplog, harm):
    from ndpp_dense.integrations.detectron2 import evaluation

    cfg = build_tiny()
    folder = tmp_path / "run"
    (folder / "inference" / "tiny_val").mkdir(parents=True)
    (folder / "metrics.json").write_text("not a line of metrics\n")
    score = {"image_id": 0, "category_id": 1, "bbox": [1, 2, 20, 20], "score": 0.9}
    found = "[" if harm == "predictions" else json.dumps([score])
    (folder / "inference" / "tiny_val" / "coco_instances_results.json").write_text(found)
    if harm == "names":
        named = SimpleNamespace(thing_classes=["price_$", r"$\frac{1$"], thing_dataset_id_to_contiguous_id={1: 1})
        monkeypatch.setattr(evaluation, "MetadataCatalog", {"tiny_val": named})
    if harm == "drawing":
        monkeypatch.setattr(evaluation, "save_predictions", lambda *_: 1 / 0)
    evaluation.write_report(cfg, {"bbox": {"AP": 1.0, "AP-price_$": 2.0, r"AP-$\frac{1$": 3.0}})
    assert json.loads((folder / "results.json").read_text())["bbox"]["AP-price_$"] == 2.0
    assert "curves.png was not drawn" in caplog.text
    assert (folder / "predictions.png").is_file() == (harm == "names")
