"""A training and an evaluation leave a page; the images on it are the worst and the best."""

import json

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")

from ndpp_dense.integrations.detectron2.pictures import Instance
from ndpp_dense.integrations.detectron2.ranking import f1_of_image, rank_images
from ndpp_dense.integrations.detectron2.results import main_figures, result_tables
from ndpp_dense.integrations.detectron2.run import evaluate_or_train

pytestmark = pytest.mark.detectron2


def thing(x, category=0, score=None, width=10):
    return Instance(category, (x, 0, x + width, 10), None, score)


@pytest.mark.parametrize(
    ("truths", "found", "expected"),
    [
        ([thing(0), thing(50)], [thing(1, score=0.9), thing(50, score=0.8)], 1.0),
        ([thing(0), thing(50)], [thing(0, score=0.9)], 2 / 3),
        ([thing(0)], [thing(0, category=1, score=0.9)], 0.0),
        ([thing(0)], [thing(0, score=0.9), thing(1, score=0.8)], 2 / 3),  # an object is found once
        ([thing(0)], [thing(6, score=0.9)], 0.0),
        ([], [thing(0, score=0.9)], 0.0),
        ([thing(0)], [], 0.0),
    ],
)
def test_f1(truths, found, expected):
    assert f1_of_image(truths, found) == pytest.approx(expected)


def test_worst_and_best_share_no_image():
    truths = {number: [thing(0), thing(50)] for number in range(5)} | {"empty": []}
    found = {number: [thing(0, score=0.9), thing(50, score=0.9)][: number % 3] for number in range(5)}
    worst, best = rank_images(truths, found, 4)
    assert [image for image, _ in worst] == [0, 3, 1]
    assert best == [(2, 1.0), (4, pytest.approx(2 / 3))]
    assert rank_images({}, {}, 4) == ([], [])
    assert rank_images({1: [thing(0)]}, {}, 4) == ([(1, 0.0)], [])


def test_figures_and_tables_of_one_set_and_of_several():
    one = {"bbox": {"AP": 1.0, "AP50": 2.0, "APs": 3.0, "AP-cat": 4.0}, "segm": {"AP": 5.0, "AP50": 6.0, "AP-cat": 7.0}}
    assert list(main_figures(one)) == ["mask AP", "mask AP50", "box AP", "box AP50"]
    assert [table.caption for table in result_tables(one)][-1] == "Average precision by class"
    assert result_tables(one)[-1].rows == [["cat", 4.0, 7.0]]
    assert list(main_figures({"a": one, "b": {}}))[0] == "a/ mask AP"
    assert main_figures({}) == {}
    assert result_tables({}) == []


def test_a_training_and_an_evaluation_leave_a_page(tiny_config, tiny_coco, tmp_path):
    def go(*overrides, **flags):
        words = {"eval_only": False, "resume": False, "tracebacks": True, "say": lambda *_: None, **flags}
        settings = {"datasets": tiny_coco, "output": str(tmp_path), "overrides": [*overrides]}
        evaluate_or_train(str(tiny_config), **words, **settings)

    go("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)")
    facts = json.loads((tmp_path / "report.json").read_text())
    assert (facts["command"], facts["state"], facts["step"], facts["total"]) == ("train-det", "finished", 2, 2)
    assert facts["metric"] == "mask AP"
    assert facts["settings"]["SOLVER.BASE_LR"] == "0.01"
    assert len(facts["curves"]["loss"]["total"]) == 2
    page = (tmp_path / "report.html").read_text()
    for text in ("Average precision by size of object", "square", "Objects of each class", ".png, F1 0.00"):
        assert text in page
    go(eval_only=True, resume=True)
    assert "evaluated" in (tmp_path / "evaluation.html").read_text()
    assert (tmp_path / "report.html").read_text() == page
