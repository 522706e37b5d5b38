"""A training leaves a page; the images on it are the worst and the best."""

import json
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("mmengine", reason="mmengine is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed: pip install -e '.[mmseg]'")

from mmseg.evaluation import IoUMetric

from ndpp_dense.integrations.mmseg.ranking import Ranking
from ndpp_dense.integrations.mmseg.run_report import report_training
from ndpp_dense.reports.surroundings import Clock

pytestmark = pytest.mark.mmseg


def ranking_of(*shares):
    """Rank images of which these shares of one class were found."""
    metric, ranking = IoUMetric(), Ranking()
    for number, share in enumerate(shares):
        metric.results.append(tuple(torch.tensor([value, 0.0]) for value in (share, 1.0, share, 1.0)))
        ranking.add(SimpleNamespace(metrics=[metric]), [SimpleNamespace(number=number)])
    return {group: [sample.number for _, sample in kept] for group, kept in ranking.split().items()}


def test_worst_and_best_share_no_image():
    assert ranking_of(*(number / 20 for number in (3, 1, 2, 9, 7, 8, 5, 4, 6, 0))) == {
        "worst": [9, 1, 2, 0],
        "best": [3, 5, 4, 8],
    }
    few = ranking_of(0.5, 0.1, 0.9)
    assert sorted(few["worst"] + few["best"]) == [0, 1, 2]
    assert (few["worst"][0], few["best"][0]) == (1, 2)
    assert ranking_of() == {"worst": [], "best": []}


def test_an_evaluator_of_another_kind_ranks_nothing():
    ranking = Ranking()
    ranking.add(SimpleNamespace(metrics=[object()]), [object()])
    assert ranking.split() == {"worst": [], "best": []}


def test_a_training_leaves_page_and_facts(train, tmp_path):
    runner = train(report=True, train_cfg={"max_iters": 2, "val_interval": 2})
    assert not (tmp_path / "run" / "report.html").exists()
    report_training(runner, Clock(), ["be careful"], "finished", "")
    facts = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (facts["command"], facts["step"], facts["total"], facts["metric"]) == ("train-seg", 2, 2, "mIoU")
    assert facts["results"]["mIoU"] == json.loads((tmp_path / "run" / "results.json").read_text())["sem_seg"]["mIoU"]
    assert facts["curves"]["score"]["mIoU"][0][0] == 2
    assert facts["cost"]["seconds_a_step"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    for text in ("IoU by class", "traffic sign", ", mIoU ", "be careful", "Worst predictions"):
        assert text in page


def test_without_the_hook_there_is_none(train, tmp_path):
    runner = train(train_cfg={"max_iters": 1, "val_interval": 2}, val_dataloader=None, val_cfg=None, val_evaluator=None)
    report_training(runner, Clock(), [], "finished", "")
    assert not (tmp_path / "run" / "report.html").exists()
