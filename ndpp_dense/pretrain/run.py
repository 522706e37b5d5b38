"""What the command line does: train or evaluate, with logs and reports in the folder of the run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ndpp_dense.distributed.main_rank import decided_by_main
from ndpp_dense.distributed.scaling import Scaling, loader_processes
from ndpp_dense.distributed.stopping import stopping_at_once
from ndpp_dense.layers.base import nd_layers
from ndpp_dense.pretrain import checkpoint
from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.evaluation import evaluate
from ndpp_dense.pretrain.images import Images, open_images
from ndpp_dense.pretrain.network import build_network, load_weights, to_device
from ndpp_dense.pretrain.noted import Noted
from ndpp_dense.pretrain.processes import is_main, rank, world_size
from ndpp_dense.pretrain.run_report import report_evaluation, report_training
from ndpp_dense.pretrain.stream import ValidationShard, validation_batches
from ndpp_dense.pretrain.trainer import Pretrainer
from ndpp_dense.reports.drawing import drawing
from ndpp_dense.reports.reporting import reported
from ndpp_dense.reports.results_file import write_results
from ndpp_dense.reports.surroundings import Clock, KeptWarnings, keeping_warnings
from ndpp_dense.training.log_files import forgiving
from ndpp_dense.training.run_folder import claimed

__all__ = ["evaluate_only", "logged", "scaled", "train"]

_log = logging.getLogger(__name__)
_FORMAT = "[%(asctime)s] %(message)s"


@contextmanager
def logged(output: Path) -> Iterator[None]:
    """Logs to the terminal and to ``log.txt`` in the folder of the run; ranks but the main one only warnings."""
    logger = logging.getLogger("ndpp_dense")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if is_main():
        output.mkdir(parents=True, exist_ok=True)
        handlers.append(forgiving(logging.FileHandler(output / "log.txt", encoding="utf-8")))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT, "%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO if is_main() else logging.WARNING)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def scaled(config: PretrainConfig, meant_for: int) -> PretrainConfig:
    """The settings with batch, learning rates and loader processes for the processes that there are, logged.

    Args:
        config: Settings.
        meant_for: Processes that they are written for.

    Raises:
        ValueError: The batch does not split evenly over those.
    """
    scaling = Scaling(meant_for, world_size())
    changes = {
        "batch_size": scaling.batch(config.batch_size),
        **{name: getattr(config, name) * scaling.factor for name in ("lr", "warmup_lr", "min_lr")},
        "workers": loader_processes(config.workers, int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))),
    }
    shown = [f"{name} {getattr(config, name)} -> {value}" for name, value in changes.items()]
    _log.info("%s: %s", scaling, ", ".join(shown))
    return replace(config, **changes)


def train(
    config: PretrainConfig, data: str | Path, output: Path, device: torch.device, *, resume: bool = False
) -> dict[str, dict[str, float]]:
    """Trains; writes ``last.pth``, ``best.pth``, ``results.json``, ``summary.csv``, ``curves.png`` and ``report.html``.

    Args:
        config: Settings.
        data: Images, see :func:`ndpp_dense.pretrain.images.open_images`.
        output: Folder of the run.
        device: Where to train.
        resume: Continue the newest checkpoint of the folder, if there is one.

    Returns:
        Last and best results.

    Raises:
        FileNotFoundError: Data or weights are missing.
        ValueError: Settings, data or a checkpoint are faulty; the folder holds a run and ``resume`` is not set, or
            another process writes to it.
        FloatingPointError: Training diverged.
    """
    images, val = open_images(data, config.num_classes)
    with claimed(output, checkpoint.CHECKPOINTS, resume=resume), keeping_warnings(["ndpp_dense"]) as kept:
        trainer = Pretrainer(config, images, val, device, output, resume)
        _log.info("%s", _found(config, images, val, device, trainer.state.network))
        if resume:
            trainer.resume()
        started = trainer.state.done

        def write(state: str, remark: str) -> None:
            if is_main():
                report_training(trainer, started, kept.texts, state, remark)

        with reported(write):
            results = trainer.train()
    _log.info("%s", _table(results))
    return results


def evaluate_only(
    config: PretrainConfig, data: str | Path, output: Path, device: torch.device, *, resume: bool = False
) -> dict[str, float]:
    """Evaluates ``config.weights``, or the newest checkpoint, and writes ``evaluation.json`` and ``evaluation.html``.

    Args:
        config: Settings.
        data: Images.
        output: Folder of the run.
        device: Where to evaluate.
        resume: Evaluate the newest checkpoint of the folder instead of ``config.weights``.

    Returns:
        ``loss``, and ``top1`` and ``top5`` in percent.

    Raises:
        FileNotFoundError: There is nothing to evaluate, or data are missing.
        ValueError: Settings, data or weights are faulty.
        StoppedEarly: A signal asked for it.
    """
    with stopping_at_once("the evaluation"), keeping_warnings(["ndpp_dense"]) as kept:
        return _evaluate(config, data, output, device, resume, kept)


def _evaluate(
    config: PretrainConfig, data: str | Path, output: Path, device: torch.device, resume: bool, kept: KeptWarnings
) -> dict[str, float]:
    clock = Clock()
    images, val = open_images(data, config.num_classes)
    network = build_network(config, len(images.classes))
    found = decided_by_main(lambda: checkpoint.newest_sound(output)) if resume else None
    if found and found.report and is_main():
        _log.warning("%s", found.report)
    newest = found.path if found else None
    if newest is None and not config.weights:
        hint = "" if resume else " (--resume is not given)"
        raise FileNotFoundError(
            f"nothing to evaluate: give weights=FILE, or --resume for the newest checkpoint in {output}{hint}."
        )
    if newest is not None:
        load_weights(network, newest)
    network = to_device(network, config, device)
    _log.info("%s, %s", _found(config, images, val, device, network), newest or config.weights)
    size = max(1, config.batch_size // (config.accumulation * world_size()))
    batches = validation_batches(ValidationShard(val, rank(), world_size()), config, device, size)
    noted = Noted(len(val.classes), device)
    results = evaluate(network, batches, config, device, noted)
    if is_main():
        write_results({"evaluation": results}, output / "evaluation.json")
        with drawing(output / "evaluation.html"):
            sets = {"validation": val}
            report_evaluation(config, network, output, results, noted, sets, clock, kept.texts, device.type)
    _log.info("%s", _table({"evaluation": results}))
    return results


def _found(config: PretrainConfig, images: Images, val: Images, device: torch.device, network: nn.Module) -> str:
    """One line: device, processes, data, network."""
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    layers = sum(1 for _ in nd_layers(network))
    return (
        f"{device.type}, {world_size()} process(es), {len(images)} training and {len(val)} validation images of "
        f"{len(images.classes)} classes, {config.name}: {parameters:.3f}M parameters, {layers or 'no'} ND++ layers"
    )


def _table(results: dict[str, dict[str, float]]) -> str:
    rows = [f"{kind:10}  {row['top1']:6.2f}  {row['top5']:6.2f}  {row['loss']:7.4f}" for kind, row in results.items()]
    return "\n".join(["results     top-1   top-5     loss", *rows])
