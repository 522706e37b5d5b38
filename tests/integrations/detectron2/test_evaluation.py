"""Results of models that predict nothing are those of pycocotools: zero where there are objects."""

import json

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")

from detectron2.modeling import build_model

from ndpp_dense.integrations.detectron2.evaluation import evaluate, write_report
from ndpp_dense.integrations.detectron2.results import format_results

pytestmark = pytest.mark.detectron2


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


def test_no_tasks_are_guessed_where_another_architecture_predicts(build_tiny):
    from ndpp_dense.integrations.detectron2.evaluation import _tasks

    cfg = build_tiny().clone()
    cfg.defrost()
    for name, tasks in (("RetinaNet", ("bbox",)), ("ProposalNetwork", None), ("GeneralizedRCNN", ("bbox", "segm"))):
        cfg.MODEL.META_ARCHITECTURE = name
        assert _tasks(cfg) == tasks
        cfg.MODEL.NDPP.META_ARCHITECTURE, cfg.MODEL.META_ARCHITECTURE = name, "NDPPModel"
        assert _tasks(cfg) == tasks
