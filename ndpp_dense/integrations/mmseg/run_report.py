"""The facts of a run for its page: curves, results, predictions, data, settings."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size
from mmengine.model import is_model_wrapper

from ndpp_dense.integrations.mmseg.pictures import Prediction, draw_example
from ndpp_dense.integrations.mmseg.report import HISTORY_KEY, NDPPReportHook, curve_panels, loss_series
from ndpp_dense.reports.page import Table
from ndpp_dense.reports.run_report import Cost, Example, RunReport, conversion_facts, write_run_report
from ndpp_dense.reports.spectra import MOST_BLOCKS, layer_spectra
from ndpp_dense.reports.surroundings import Clock
from ndpp_dense.training.settings import flat_settings

__all__ = ["report_evaluation", "report_training"]

_CLASS = "IoU-"
_OVERALL = {"mIoU": "mIoU", "mAcc": "mean accuracy of a class", "aAcc": "accuracy of all pixels"}
_CHOSEN = (
    "model.type", "model.ndpp.*", "model.backbone.type", "model.backbone.depth", "model.decode_head.type",
    "optim_wrapper.*", "param_scheduler.*", "train_cfg.*", "train_dataloader.batch_size", "crop_size", "data_root",
    "load_from", "resume", "randomness.*",
)  # fmt: skip
_NOTE = "Images of the first process, ranked by the mIoU over the classes that an image has."


def report_training(runner: Any, clock: Clock, warnings: Sequence[str], state: str, remark: str) -> None:
    """Writes ``report.html`` and ``report.json`` of a training that has a ``NDPPReportHook``, on the first rank.

    Args:
        runner: Of the run.
        clock: Started with it.
        warnings: What was logged.
        state: How it ended.
        remark: A sentence on that.
    """
    hook = _hook(runner)
    if hook is None or runner.rank != 0:
        return
    history = runner.message_hub.runtime_info.get(HISTORY_KEY, [])
    steps = max(0, runner.iter - hook.started)
    scalars = runner.message_hub.log_scalars.get("train/time")
    times = [float(value) for value in scalars.data[0][-steps:]] if scalars is not None and steps else []
    cost = Cost(clock.seconds, steps, statistics.median(times) if times else None, get_world_size())
    report = RunReport(
        command="train-seg",
        step=runner.iter,
        total=runner.max_iters,
        state=state,
        remark=remark,
        panels=curve_panels(loss_series(runner), history),
        cost=cost,
        **_common(runner, hook, warnings, {"training": runner.train_dataloader, "validation": runner.val_dataloader}),
    )
    write_run_report(report)


def report_evaluation(runner: Any, clock: Clock, warnings: Sequence[str]) -> None:
    """Writes ``evaluation.html`` of an evaluation that has a ``NDPPReportHook``, on the first rank."""
    hook = _hook(runner)
    if hook is None or runner.rank != 0:
        return
    common = _common(runner, hook, warnings, {"evaluation": runner.test_dataloader})
    cost = Cost(clock.seconds, 0, None, get_world_size())
    report = RunReport(command="train-seg --eval-only", step=0, total=0, state="evaluated", cost=cost, **common)
    write_run_report(report, "evaluation.html")


def _hook(runner: Any) -> NDPPReportHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, NDPPReportHook)), None)


def _common(runner: Any, hook: NDPPReportHook, warnings: Sequence[str], loaders: Mapping[str, Any]) -> dict[str, Any]:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    settings = flat_settings(runner.cfg.to_dict())
    sets = {name: loader.dataset for name, loader in loaders.items() if loader is not None}
    return {
        "folder": Path(runner.work_dir),
        "metric": "mIoU",
        "figures": {name: hook.metrics[name] for name in ("mIoU", "aAcc") if name in hook.metrics},
        "tables": _tables(hook.metrics),
        "examples": _examples(hook, next(reversed(sets.values())).metainfo),
        "examples_note": _NOTE,
        "data": [
            Table("Sets", ("set", "images", "classes", "kind"), [_row(name, found) for name, found in sets.items()])
        ],
        "settings": settings,
        "chosen": [name for name in settings if any(fnmatchcase(name, pattern) for pattern in _CHOSEN)],
        "conversion": conversion_facts(model),
        "spectra": layer_spectra(model.state_dict(), MOST_BLOCKS),
        "device": next(model.parameters()).device.type,
        "warnings": warnings,
    }


def _row(name: str, dataset: Any) -> list[Any]:
    return [name, len(dataset), len(dataset.metainfo.get("classes") or ()), type(dataset).__name__]


def _tables(metrics: Mapping[str, float]) -> list[Table]:
    if not metrics:
        return []
    overall = [[text, metrics[name]] for name, text in _OVERALL.items() if name in metrics]
    by_class = [[name.removeprefix(_CLASS), value] for name, value in metrics.items() if name.startswith(_CLASS)]
    tables = [Table("On the validation set", ("", "percent"), overall, percent=True)]
    return [*tables, Table("IoU by class", ("class", "IoU"), by_class, percent=True)] if by_class else tables


def _examples(hook: NDPPReportHook, meta: Mapping[str, Any]) -> list[Example]:
    return [
        Example(group, f"{Path(sample.img_path).name}, mIoU {score:.1f}", partial(_drawn, sample, meta))
        for group, kept in hook.ranking.split().items()
        for score, sample in kept
    ]


def _drawn(sample: Any, meta: Mapping[str, Any]) -> bytes:
    return draw_example(Prediction.of(sample), meta["classes"], meta["palette"])
