"""What is counted of answers, against other ways to count it."""

import numpy as np
import pytest

from ndpp_dense.robustness.shift import Boxes, ClassificationTask, DetectionTask, SegmentationTask
from ndpp_dense.robustness.shift.detection import average_precision, box_iou, match
from ndpp_dense.robustness.shift.segmentation import UNLABELLED
from ndpp_dense.robustness.shift.task import Frame

RNG = np.random.default_rng(0)


def figures(task, rows):
    """The figures of several images, from (answer, reference, target)."""
    counts = [task.counts(*row) for row in rows]
    return {m.name: float(m.value(sum(c[m.name] for c in counts))) for m in task.measures if m.name in counts[0]}


def test_classification():
    task = ClassificationTask()
    before, after = np.array([0.0, 2.0, 0.0]), np.array([3.0, 0.0, 0.0])
    found = figures(task, [(after, before, 0), (before, before, 0)])
    own = np.exp(2) / (np.exp(2) + 2)
    assert found == {"accuracy": 0.5, "agreement": 0.5, "confidence": pytest.approx((1 / (np.exp(3) + 2) + own) / 2)}
    assert "accuracy" not in task.counts(before, before, None)
    assert task.check(np.array([0.0, np.nan])) == "1 class scores are not finite"
    assert "shape" in task.check(np.zeros((2, 2)))
    assert task.check(before) == ""


def test_segmentation_moves_with_its_picture():
    task, frame = SegmentationTask(3), Frame((6, 8), (2, -3), "mirror")
    labels = RNG.integers(0, 3, (6, 8))
    moved = task.move(labels, frame)
    assert np.array_equal(moved[2:, :5], labels[:4, 3:])
    assert (moved[:2] == UNLABELLED).all()
    assert (moved[:, 5:] == UNLABELLED).all()
    answer = task.crop(moved + 0, frame)
    assert figures(task, [(answer, moved, moved)]) == {"mIoU": 1.0, "agreement": 1.0}
    around = task.move(labels, Frame((6, 8), (2, -3), "circular"))
    assert np.array_equal(around, np.roll(labels, (2, -3), (0, 1)))


def test_mean_iou_as_mmsegmentation_defines_it():
    task = SegmentationTask(4)
    pairs = [(RNG.integers(0, 3, (9, 9)), RNG.integers(-1, 3, (9, 9))) for _ in range(3)]  # class 3 never occurs
    found = figures(task, [(answer, answer, target) for answer, target in pairs])
    shares = []
    for number in range(3):
        both = sum(np.sum((a == number) & (t == number)) for a, t in pairs)
        either = sum(np.sum(((a == number) | (t == number)) & (t != UNLABELLED)) for a, t in pairs)
        shares.append(both / either)
    assert found["mIoU"] == pytest.approx(np.mean(shares))
    assert np.isnan(task.measures[0].value(np.zeros(8)))
    assert "holds the class 4 of 4" in task.check(np.array([[4]]))
    assert "label maps have (H, W) of integers" in task.check(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="num_classes = 0"):
        SegmentationTask(0)


def some_boxes(count, classes=2, size=60):
    corner = RNG.uniform(0, size - 20, (count, 2))
    edges = np.concatenate([corner, corner + RNG.uniform(8, 20, (count, 2))], axis=1)
    return Boxes(edges, RNG.integers(0, classes, count), np.round(RNG.uniform(0, 1, count), 2) * 0.99)


def test_boxes_move_and_are_cut_at_the_border():
    task = DetectionTask()
    boxes = Boxes.labelled([[0, 0, 10, 10], [20, 10, 30, 30], [34, 10, 40, 30]], [0, 1, 1])
    moved = task.move(boxes, Frame((40, 40), (0, 8), "mirror"))
    assert moved.edges.tolist() == [[8, 0, 18, 10], [28, 10, 38, 30]]  # the third is gone
    cut = task.move(boxes, Frame((40, 40), (-4, 3), "mirror"))
    assert cut.edges.tolist() == [[3, 0, 13, 6], [23, 6, 33, 26], [37, 6, 40, 26]]
    around = task.move(boxes, Frame((40, 40), (0, 8), "circular"))
    assert around.edges.tolist() == [[8, 0, 18, 10], [28, 10, 38, 30], [2, 10, 8, 30]]
    seen = task.crop(Boxes.labelled([[0, 0, 9, 9], [5, 0, 14, 9]], [0, 0]), Frame((40, 40), (0, 8), "mirror"))
    assert seen.edges.tolist() == [[8, 0, 14, 9]]  # what is found in the border does not count


def test_agreement_and_overlap():
    task = DetectionTask()
    one = Boxes(np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]]), np.array([0, 1]), np.array([0.9, 0.8]))
    other = Boxes(np.array([[0.0, 2, 10, 10], [20, 20, 30, 30]]), np.array([0, 0]), np.array([0.9, 0.8]))
    found = figures(task, [(one, other, None)])
    assert found == {"agreement": 0.5, "overlap": pytest.approx(0.8)}
    faint = Boxes(one.edges, one.classes, one.scores - 0.5)
    assert np.isnan(figures(task, [(faint, faint, None)])["agreement"])
    assert task.check(None) == "the answer is a NoneType, not Boxes"
    assert task.check(Boxes.labelled([[0, 0, np.inf, 1]], [0])) == "boxes or scores are not finite"
    none = Boxes.labelled([], [])
    assert match(one, none).tolist() == [0, 0]
    assert box_iou(none.edges, one.edges).shape == (0, 2)
    with pytest.raises(ValueError, match=r"score = 1\.5"):
        DetectionTask(1.5)


def test_average_precision_as_cocos():
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed: extra 'detectron2'")
    from pycocotools.cocoeval import COCOeval

    truths, answers = [some_boxes(4, 1) for _ in range(12)], []
    for truth in truths:
        jittered = Boxes(truth.edges + RNG.normal(0, 2, (4, 4)), truth.classes, some_boxes(4).scores)
        extra = some_boxes(3, 1)
        both = [np.concatenate(p) for p in zip((jittered.edges, jittered.classes, jittered.scores),
                                               (extra.edges, extra.classes, extra.scores), strict=True)]  # fmt: skip
        answers.append(Boxes(*both))
    task = DetectionTask()
    ours = figures(task, [(a, a, t) for a, t in zip(answers, truths, strict=True)])["AP50"]
    assert ours == pytest.approx(_coco_ap50(coco, COCOeval, answers, truths), abs=5e-3)
    assert 0.2 < ours < 0.9
    assert np.isnan(average_precision(np.zeros(201)))


def _coco_ap50(coco, evaluator, answers, truths):
    def wh(edges):
        return [float(v) for v in (edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1])]

    gt, found, number = coco.COCO(), [], 0
    gt.dataset = {"images": [{"id": i} for i in range(len(truths))], "categories": [{"id": 0}], "annotations": []}
    for i, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
        for edges in truth.edges:
            number += 1
            box = wh(edges)
            gt.dataset["annotations"].append(
                {"id": number, "image_id": i, "category_id": 0, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
        for edges, score in zip(answer.edges, answer.scores, strict=True):
            found.append({"image_id": i, "category_id": 0, "bbox": wh(edges), "score": float(score)})
    gt.dataset["info"] = {}
    gt.createIndex()
    run = evaluator(gt, gt.loadRes(found), "bbox")
    run.evaluate()
    run.accumulate()
    return float(run.eval["precision"][0, :, 0, 0, 2].mean())
