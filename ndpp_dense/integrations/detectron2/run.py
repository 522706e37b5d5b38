"""A run from its settings: configuration, model, then training or evaluation, in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from torch import nn

from ndpp_dense.distributed.stopping import stopping_at_once
from ndpp_dense.integrations.detectron2.calibration import build_to_start
from ndpp_dense.integrations.detectron2.checkpoint import CHECKPOINTS, NDCheckpointer
from ndpp_dense.integrations.detectron2.class_names import write_class_names
from ndpp_dense.integrations.detectron2.evaluation import evaluate, write_report
from ndpp_dense.integrations.detectron2.loader import TrainData
from ndpp_dense.integrations.detectron2.mapper import CheckedDatasetMapper
from ndpp_dense.integrations.detectron2.run_config import build_config, flat_settings, prepare_run
from ndpp_dense.integrations.detectron2.run_report import LOGGERS, report_evaluation, report_training
from ndpp_dense.integrations.detectron2.setting_checks import (
    check_device_and_classes,
    check_training_sets,
    unusual_settings,
)
from ndpp_dense.integrations.detectron2.trainer import NDTrainer
from ndpp_dense.reports.drawing import drawing
from ndpp_dense.reports.reporting import reported
from ndpp_dense.reports.surroundings import Clock, KeptWarnings, keeping_warnings
from ndpp_dense.training.run_folder import claimed
from ndpp_dense.training.setting_faults import faults_of_settings

__all__ = ["evaluate_or_train"]

_NEXT = "Correct the setting that it is about, in the config or among the overrides."


def evaluate_or_train(
    config: str, *, eval_only: bool, resume: bool, tracebacks: bool, say: Callable[..., None], **settings: Any
) -> None:
    """Runs one process of a training or an evaluation.

    Args:
        config: Path or bare name.
        eval_only: Evaluate ``MODEL.WEIGHTS``, or with ``resume`` the newest checkpoint, and write the report.
        resume: Continue the newest checkpoint of the output folder.
        tracebacks: Let Detectron2 log the traceback of an error before it arrives here.
        say: Takes lines for the user, on the first rank.
        settings: Of :func:`~ndpp_dense.integrations.detectron2.run_config.build_config`.

    Raises:
        FileNotFoundError: Config or data are missing.
        KeyError: A key of the configuration does not exist.
        ValueError: A value is wrong, a data set is faulty, or the output folder holds a run and ``resume`` is not set.
        StoppedEarly: A signal asked for it.
    """
    if not tracebacks:
        logging.getLogger("detectron2.engine.train_loop").addFilter(lambda record: not record.exc_info)
    tell = say if comm.is_main_process() else lambda *_: None
    cfg, remarks = build_config(config, **settings)
    check_device_and_classes(cfg)
    if eval_only:
        prepare_run(cfg)
        write_class_names(cfg)
        tell(*remarks)
        with stopping_at_once("the evaluation"), keeping_warnings(LOGGERS) as kept:
            _evaluate(cfg, resume, tell, remarks, kept)
        return
    check_training_sets(cfg)
    remarks += unusual_settings(cfg)
    with claimed(cfg.OUTPUT_DIR, CHECKPOINTS, resume=resume):
        prepare_run(cfg)
        write_class_names(cfg)
        tell(*remarks)
        with keeping_warnings(LOGGERS) as kept:
            _train(cfg, resume, tell, remarks, kept)


def _train(cfg: CfgNode, resume: bool, tell: Callable[..., None], remarks: Sequence[str], kept: KeptWarnings) -> None:
    clock = Clock()
    with faults_of_settings("building the model and what trains it", _NEXT, flat_settings(cfg)):
        trainer = NDTrainer(cfg, resume)
    tell(_found(cfg, trainer.net, f"{len(trainer.data.dicts)} training images"))
    if len(trainer.data.dicts) < cfg.SOLVER.IMS_PER_BATCH:
        batch, count = cfg.SOLVER.IMS_PER_BATCH, len(trainer.data.dicts)
        tell(f"warning: SOLVER.IMS_PER_BATCH is {batch}, and there are {count} images: a step sees some of them twice.")
    trainer.resume_or_load(resume)

    def write(state: str, remark: str) -> None:
        if comm.is_main_process():
            report_training(trainer, clock, remarks, kept.texts, state, remark)

    with reported(write):
        trainer.train()
    best = Path(cfg.OUTPUT_DIR) / "model_best.pth"
    weights = best if best.is_file() else best.with_name("model_final.pth")
    tell(
        f"The page of the run is {best.with_name('report.html')}",
        f"Try it on a picture of yours: ndpp infer IMAGE --weights {weights} --output out",
    )


def _evaluate(
    cfg: CfgNode, resume: bool, tell: Callable[..., None], remarks: Sequence[str], kept: KeptWarnings
) -> None:
    clock = Clock()
    with faults_of_settings("building the model", _NEXT, flat_settings(cfg)):
        model, loaded = build_to_start(cfg, lambda: TrainData(cfg, CheckedDatasetMapper(cfg, True)), resume)  # pyright: ignore[reportCallIssue]
    tell(_found(cfg, model, "evaluation only"))
    checkpointer = NDCheckpointer(model, cfg.OUTPUT_DIR)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise FileNotFoundError(
            "nothing to evaluate: the weights are random. Give some with --weights FILE or NAME, or --resume for the "
            f"newest checkpoint in {cfg.OUTPUT_DIR}{', which has none' if resume else ' (--resume is not given)'}."
        )
    checkpointer.resume_or_load(None if loaded else cfg.MODEL.WEIGHTS, resume=resume)
    results = evaluate(cfg, model)
    if comm.is_main_process():
        write_report(cfg, results)
        with drawing("evaluation.html"):
            report_evaluation(cfg, model, results, clock, remarks, kept.texts)


def _found(cfg: CfgNode, model: nn.Module, training: str) -> str:
    """One line: device, processes, data, layers."""
    test = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TEST)
    report = getattr(model, "ndpp_report", None)
    layers = f"{len(report.converted)} ND++ layers" if report is not None else "no ND++ layers"
    return f"{cfg.MODEL.DEVICE}, {comm.get_world_size()} process(es), {training}, {test} test images, {layers}"
