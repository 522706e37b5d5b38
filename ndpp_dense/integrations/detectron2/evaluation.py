"""Evaluate a model on its test sets and leave results, curves and pictures in the output folder."""

from __future__ import annotations

import io
import json
import logging
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from ndpp_dense import fold_ndpp, nd_layers
from ndpp_dense.datasets.coco import renumber_annotations
from ndpp_dense.distributed.patience import patient
from ndpp_dense.distributed.stopping import EvaluationStopped, UntilStopped, stop_agreed, stop_vote
from ndpp_dense.integrations.detectron2.curves import save_curves
from ndpp_dense.integrations.detectron2.mapper import CheckedDatasetMapper
from ndpp_dense.integrations.detectron2.pictures import save_predictions
from ndpp_dense.integrations.detectron2.results import format_results
from ndpp_dense.reports.drawing import drawing
from ndpp_dense.reports.results_file import write_results
from ndpp_dense.training.rng import isolated_rng

__all__ = ["evaluate", "main_metric", "write_report"]

_log = logging.getLogger(__name__)


def evaluate(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """Measure COCO average precision on every set in ``DATASETS.TEST``. All ranks must call it.

    Args:
        cfg: Detectron2 configuration.
        model: the model, without DistributedDataParallel.

    Returns:
        On the main rank ``{"bbox": {"AP": ...}, "segm": {...}}``, in percent; with several test sets one such
        dictionary a set. Empty on the other ranks.

    Raises:
        EvaluationStopped: A rank was asked to stop; all leave at their next batch.
        ValueError: There is no test set.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: there is nothing to evaluate. Give --dataset NAME_val=JSON:IMAGES.")
    results = {}
    if any(nd_layers(model)):
        # The same outputs at a fraction of the time: D and weights are multiplied once, not for every image.
        model = fold_ndpp(model)
    # A data loader draws from the generators that training uses, and evaluating must not change the training.
    with isolated_rng(0, cuda=True):
        for name in cfg.DATASETS.TEST:
            evaluator = _Evaluator(name, _tasks(cfg), output_dir=str(_folder(cfg, name)))
            renumber_annotations(evaluator._coco_api)
            mapper = CheckedDatasetMapper(cfg, is_train=False)  # pyright: ignore[reportCallIssue]
            loader: Any = build_detection_test_loader(cfg, name, mapper=mapper)  # pyright: ignore
            found = inference_on_dataset(model, UntilStopped(patient(loader)), _Agreed(evaluator))
            if found:
                results[name] = found
    return next(iter(results.values())) if len(results) == 1 else results


def _tasks(cfg: CfgNode) -> tuple[str, ...]:
    """What a model is to predict, as far as its configuration tells."""
    name = cfg.MODEL.META_ARCHITECTURE
    name = cfg.MODEL.NDPP.META_ARCHITECTURE if name == "NDPPModel" else name
    if name != "GeneralizedRCNN":
        return ("bbox",)
    masks, keypoints = cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON
    return ("bbox", *(["segm"] if masks else []), *(["keypoints"] if keypoints else []))


class _Evaluator(COCOEvaluator):
    """Detectron2's evaluator; a model that predicts nothing has an AP of 0, where objects were to be found.

    What is evaluated follows from the predictions, as in Detectron2 (a user's heads may have no masks), and from the
    configuration where there are none.
    """

    def __init__(self, name: str, tasks: tuple[str, ...], output_dir: str) -> None:
        # The fast implementation needs Detectron2's compiled part; pycocotools gives the same figures.
        super().__init__(name, output_dir=output_dir, use_fast_impl=False)
        self._expected = tasks

    def _tasks_from_predictions(self, predictions: Any) -> list[str]:
        return super()._tasks_from_predictions(predictions) if predictions else list(self._expected)

    def _derive_coco_results(self, coco_eval: Any, iou_type: Any, class_names: Any = None) -> dict[str, float]:
        if coco_eval is None:
            found = COCO()
            found.dataset = {**self._coco_api.dataset, "annotations": []}
            with redirect_stdout(io.StringIO()):
                found.createIndex()
                coco_eval = COCOeval(self._coco_api, found, iou_type)
                coco_eval.evaluate()
                coco_eval.accumulate()
                coco_eval.summarize()
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


class _Agreed(DatasetEvaluator):
    """An evaluator that asks all ranks, before it gathers their results, whether one of them was asked to stop."""

    def __init__(self, evaluator: DatasetEvaluator) -> None:
        self._evaluator = evaluator

    def reset(self) -> None:
        self._evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        self._evaluator.process(inputs, outputs)

    def evaluate(self) -> Any:
        if stop_agreed(sum(comm.all_gather(stop_vote()))):
            raise EvaluationStopped
        return self._evaluator.evaluate()


def main_metric(cfg: CfgNode) -> str:
    """Return the name of the metric that ranks checkpoints, such as ``segm/AP``."""
    task = "segm" if cfg.MODEL.MASK_ON else "bbox"
    return f"{task}/AP" if len(cfg.DATASETS.TEST) < 2 else f"{cfg.DATASETS.TEST[0]}/{task}/AP"


def write_report(cfg: CfgNode, results: dict[str, Any]) -> None:
    """Write ``results.json``, ``curves.png`` and ``predictions.png`` and log the table of results.

    Args:
        cfg: Detectron2 configuration; everything is read from and written to its ``OUTPUT_DIR``.
        results: what :func:`evaluate` returned on the main rank.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if results:
        # The log first, for where the disk is full; pictures last.
        _log.info("Results (all files in %s):\n%s", folder, format_results(results))
        write_results(results, folder / "results.json")
    if (folder / "metrics.json").is_file():
        with drawing(folder / "curves.png"):
            save_curves(folder / "metrics.json", folder / "curves.png")
    if not results:
        return
    name = cfg.DATASETS.TEST[0]
    predicted, picture = _folder(cfg, name) / "coco_instances_results.json", folder / "predictions.png"
    if predicted.is_file():
        with drawing(picture):
            predictions = json.loads(predicted.read_text())
            save_predictions(predictions, DatasetCatalog.get(name), MetadataCatalog.get(name), picture)


def _folder(cfg: CfgNode, name: str) -> Path:
    return Path(cfg.OUTPUT_DIR) / "inference" / name
