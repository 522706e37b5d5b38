"""The facts of a run for its page: curves, results, predictions, data, settings."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torch import nn

from ndpp_dense.integrations.detectron2.config import add_ndpp_config
from ndpp_dense.integrations.detectron2.curves import curve_panels, read_metrics
from ndpp_dense.integrations.detectron2.pictures import draw_example, predicted_instances, true_instances
from ndpp_dense.integrations.detectron2.ranking import rank_images
from ndpp_dense.integrations.detectron2.results import main_figures, result_tables
from ndpp_dense.reports.page import Table
from ndpp_dense.reports.run_report import Cost, Example, RunReport, conversion_facts, write_run_report
from ndpp_dense.reports.spectra import MOST_BLOCKS, layer_spectra
from ndpp_dense.reports.surroundings import Clock
from ndpp_dense.training.settings import flat_settings

__all__ = ["LOGGERS", "report_evaluation", "report_training"]

LOGGERS = ("ndpp_dense", "detectron2", "fvcore")  # whose warnings are shown
_EXAMPLES = 4  # of the worst, and of the best
_SCORE = 0.5
_NOTE = (
    "Images of the first validation set, ranked by F1: the share of objects and predictions (score of at least "
    f"{_SCORE}) that match, with the same class and boxes with an IoU of at least 0.5."
)


def report_training(
    trainer: Any, clock: Clock, remarks: Sequence[str], warnings: Sequence[str], state: str, remark: str
) -> None:
    """Writes ``report.html`` and ``report.json`` of a training; the first rank calls it.

    Args:
        trainer: Of the run.
        clock: Started with it.
        remarks: On the data, those with ``warning:`` among the warnings.
        warnings: What was logged.
        state: How it ended.
        remark: A sentence on that.
    """
    cfg, steps = trainer.cfg, trainer.iter - trainer.start_iter
    metrics = Path(cfg.OUTPUT_DIR) / "metrics.json"
    records = read_metrics(metrics) if metrics.is_file() else {}
    times = [found["time"] for step, found in records.items() if step >= trainer.start_iter and "time" in found]
    took = statistics.median(times) if times else None
    report = RunReport(
        command="train-det",
        step=trainer.iter,
        total=trainer.max_iter,
        state=state,
        remark=remark,
        panels=curve_panels(records),
        cost=Cost(clock.seconds, steps, took, comm.get_world_size()),
        **_common(cfg, trainer.net, trainer.results, remarks, warnings, trainer.data.dicts),
    )
    write_run_report(report)


def report_evaluation(
    cfg: CfgNode, model: nn.Module, results: Mapping[str, Any], clock: Clock, remarks: Sequence[str], warnings: Any
) -> None:
    """Writes ``evaluation.html``; the first rank calls it."""
    cost = Cost(clock.seconds, 0, None, comm.get_world_size())
    common = _common(cfg, model, results, remarks, warnings, None)
    report = RunReport(command="train-det --eval-only", step=0, total=0, state="evaluated", cost=cost, **common)
    write_run_report(report, "evaluation.html")


def _common(
    cfg: CfgNode, model: nn.Module, results: Mapping[str, Any], remarks: Sequence[str], warnings: Any, train: Any
) -> dict[str, Any]:
    figures = main_figures(results)
    settings = flat_settings(cfg)
    usual = flat_settings(add_ndpp_config(get_cfg()))
    told = [text.removeprefix("warning: ") for text in remarks if text.startswith("warning: ")]
    sets = {name: DatasetCatalog.get(name) for name in cfg.DATASETS.TEST} if results else {}
    return {
        "folder": Path(cfg.OUTPUT_DIR),
        "metric": next(iter(figures), "mask AP" if cfg.MODEL.MASK_ON else "box AP"),
        "figures": figures,
        "tables": result_tables(results),
        "examples": _examples(cfg, next(iter(sets.values()))) if sets else (),
        "examples_note": _NOTE,
        "data": _data(({} if train is None else {", ".join(cfg.DATASETS.TRAIN): train}) | sets, cfg),
        "settings": settings,
        "chosen": [name for name, value in settings.items() if usual.get(name) != value],
        "conversion": conversion_facts(model),
        "spectra": layer_spectra(model.state_dict(), MOST_BLOCKS),
        "device": cfg.MODEL.DEVICE,
        "warnings": [*told, *warnings],
    }


def _examples(cfg: CfgNode, records: Sequence[Mapping[str, Any]]) -> list[Example]:
    name = cfg.DATASETS.TEST[0]
    predicted = Path(cfg.OUTPUT_DIR) / "inference" / name / "coco_instances_results.json"
    if not predicted.is_file():
        return []
    metadata = MetadataCatalog.get(name)
    found = predicted_instances(json.loads(predicted.read_text(encoding="utf-8")), metadata, _SCORE)
    names = [str(category) for category in getattr(metadata, "thing_classes", [])]
    by_image = {record["image_id"]: record for record in records}
    truths = {image: true_instances(record) for image, record in by_image.items()}
    examples = []
    for group, ranked in zip(("worst", "best"), rank_images(truths, found, _EXAMPLES), strict=True):
        for image, score in ranked:
            caption = f"{Path(by_image[image]['file_name']).name}, F1 {score:.2f}"
            draw = partial(draw_example, by_image[image], found.get(image, []), names)
            examples.append(Example(group, caption, draw))
    return examples


def _data(sets: Mapping[str, Iterable[Mapping[str, Any]]], cfg: CfgNode) -> list[Table]:
    if not sets:
        return []
    first = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST][0]
    names = [str(name) for name in getattr(MetadataCatalog.get(first), "thing_classes", [])]
    counts: dict[str, Counter[int]] = {}
    rows = []
    for name, records in sets.items():
        counts[name], images, empty = Counter(), 0, 0
        for record in records:
            objects = [entry["category_id"] for entry in record.get("annotations", ())]
            counts[name].update(objects)
            images, empty = images + 1, empty + (not objects)
        rows.append([name, images, counts[name].total(), empty])
    by_class = [[label, *(counts[name][index] for name in sets)] for index, label in enumerate(names)]
    tables = [Table("Sets", ("set", "images", "objects", "images without objects"), rows)]
    return [*tables, Table("Objects of each class", ("class", *sets), by_class)] if by_class else tables
