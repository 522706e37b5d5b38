"""What is evaluated, and on which annotations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from ndpp_dense.integrations.detectron2.evaluation import _tasks, evaluate, write_report
from ndpp_dense.integrations.detectron2.loader import TrainData
from ndpp_dense.integrations.detectron2.results import format_results
from ndpp_dense.integrations.detectron2.run_config import build_config

pytestmark = pytest.mark.detectron2


class Knowing(torch.nn.Module):
    """Finds every annotated object of a file."""

    def __init__(self, file):
        super().__init__()
        self.boxes = {}
        for entry in json.loads(file.read_text())["annotations"]:
            x, y, width, height = entry["bbox"]
            self.boxes.setdefault(entry["image_id"], []).append(([x, y, x + width, y + height], entry["category_id"]))

    def forward(self, inputs):
        answers = []
        for given in inputs:
            boxes, categories = zip(*self.boxes[given["image_id"]], strict=True)
            found = Instances((given["height"], given["width"]))
            found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
            found.pred_classes = torch.tensor(categories) - 1
            found.scores = torch.linspace(0.9, 0.8, len(boxes))
            answers.append({"instances": found})
        return answers


@pytest.fixture
def build(tiny_config, tiny_coco, tmp_path):
    """Returns a function that changes a copy of the tiny sets and builds a configuration with some of them."""

    def make(change=lambda document, split: None, splits=("train", "val"), overrides=("MODEL.MASK_ON", "False")):
        flags = []
        for flag in tiny_coco:
            name, paths = flag.split("=")
            split = name.removeprefix("tiny_")
            file, images = map(Path, paths.split(":"))
            document = json.loads(file.read_text())
            change(document, split)
            copy = tmp_path / f"{split}.json"
            copy.write_text(json.dumps(document))
            flags += [f"{name}={copy}:{images}"] if split in splits else []
        cfg, remarks = build_config(
            str(tiny_config), datasets=flags, output=str(tmp_path / "run"), overrides=[*overrides]
        )
        return cfg, remarks, tmp_path / "val.json"

    return make


def test_objects_with_an_id_below_1_are_found_too(build):
    def from_zero(document, split):
        for number, entry in enumerate(document["annotations"]):
            entry["id"] = number - 1

    cfg, remarks, file = build(from_zero)
    assert any("2 annotation ids are below 1" in line for line in remarks)
    assert evaluate(cfg, Knowing(file))["bbox"]["AP"] == pytest.approx(100)


def test_sixteen_bits_are_evaluated_as_they_are_meant(build, tmp_path):
    seen = []

    class Looking(Knowing):
        def forward(self, inputs):
            seen.extend(float(given["image"].float().mean()) for given in inputs)
            return super().forward(inputs)

    def deepen(document, split):
        for image in document["images"]:
            name = tmp_path / f"{split}_{image['id']}.png"
            pixels = np.full((image["height"], image["width"]), 100 * 257, np.uint16)
            Image.fromarray(pixels).save(name)
            image["file_name"] = str(name)

    cfg, _, file = build(deepen)
    evaluate(cfg, Looking(file))
    assert seen == pytest.approx([100] * 3)


def test_only_a_training_set_evaluates_nothing_and_says_so(build):
    cfg, remarks, _ = build(splits=("train",))
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("tiny_train",), ())
    assert any("nothing is evaluated" in line and "no model_best.pth" in line for line in remarks)
    with pytest.raises(ValueError, match="DATASETS.TEST is empty"):
        evaluate(cfg, torch.nn.Identity())


def test_only_a_test_set_trains_on_nothing_else(build):
    cfg, _, _ = build(splits=("val",))
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((), ("tiny_val",))
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN is empty: .*NAME_train"):
        TrainData(cfg, lambda record: record)


def test_masks_are_needed_where_the_overrides_leave_them_on(build):
    def without(document, split):
        for entry in document["annotations"]:
            entry["segmentation"] = []

    with pytest.raises(ValueError, match=r"18 of 18 annotations have no segmentation.*faster_rcnn_"):
        build(without, overrides=())
    cfg, remarks, _ = build(without)
    assert not cfg.MODEL.MASK_ON
    assert not any("warning" in line for line in remarks)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_too_thin_is_refused_at_the_start(build, split):
    def flatten(document, which):
        if which == split:
            document["images"][1].update(height=1, width=900)
            for entry in document["annotations"]:
                entry["bbox"], entry["segmentation"], entry["area"] = [0, 0, 3, 1], [], 3

    with pytest.raises(ValueError, match=rf"tiny_{split}: image 1\.png: 900 x 1 pixels are too thin"):
        build(flatten)


@pytest.mark.parametrize(("masks", "tasks"), [("True", {"bbox", "segm"}), ("False", {"bbox"})])
def test_a_model_that_finds_nothing_has_an_ap_of_zero(build_tiny, tmp_path, masks, tasks):
    cfg = build_tiny("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0", "MODEL.MASK_ON", masks)
    torch.manual_seed(0)
    results = evaluate(cfg, build_model(cfg).eval())
    assert set(results) == tasks
    for task in tasks:
        assert (results[task]["AP"], results[task]["AP50"], results[task]["APs"]) == (0, 0, 0)
        assert results[task]["AP-square"] == 0
    table = format_results(results)
    assert "0.0" in table.splitlines()[2]
    write_report(cfg, results)
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert written["bbox"]["AP"] == 0


def test_what_is_evaluated_of_no_predictions_follows_from_the_architecture(build_tiny):
    cfg = build_tiny().clone()
    cfg.defrost()
    for name, tasks in (("RetinaNet", ("bbox",)), ("PanopticFPN", ("bbox",)), ("GeneralizedRCNN", ("bbox", "segm"))):
        cfg.MODEL.META_ARCHITECTURE = name
        assert _tasks(cfg) == tasks
        cfg.MODEL.NDPP.META_ARCHITECTURE, cfg.MODEL.META_ARCHITECTURE = name, "NDPPModel"
        assert _tasks(cfg) == tasks


class BoxesOnly(torch.nn.Module):
    """Heads of a user's own that predict no masks, whatever MODEL.MASK_ON says: a box on every image, or on some."""

    def __init__(self, finds):
        super().__init__()
        self.finds = finds

    def forward(self, inputs):
        answers = []
        for given in inputs:
            result = Instances((given["height"], given["width"]))
            count = int(self.finds(given["image_id"]))
            result.pred_boxes = Boxes(torch.tensor([[2.0, 2.0, 20.0, 20.0]] * count).reshape(-1, 4))
            result.pred_classes, result.scores = torch.zeros(count, dtype=torch.int64), torch.full((count,), 0.9)
            answers.append({"instances": result})
        return answers


@pytest.mark.parametrize("finds", [lambda image: True, lambda image: image % 2], ids=["all", "some"])
def test_heads_without_masks_are_evaluated_by_their_boxes(build_tiny, finds):
    cfg = build_tiny("MODEL.MASK_ON", "True")
    assert set(evaluate(cfg, BoxesOnly(finds))) == {"bbox"}
