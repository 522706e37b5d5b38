"""A run from its settings: configuration, runner, then training or evaluation, in this process."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine.config import Config, DictAction
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ndpp_dense.distributed.stopping import finishing_the_step, stopping_at_once
from ndpp_dense.integrations.mmengine.checkpoint import CHECKPOINTS
from ndpp_dense.integrations.mmengine.processes import auto_scale, prepare_processes, ranks_of
from ndpp_dense.integrations.mmengine.runner import NDPPRunner
from ndpp_dense.integrations.mmengine.setting_checks import flat_settings
from ndpp_dense.integrations.mmseg.run_config import (
    build_config,
    checkpoint_folder,
    choose_resumed,
    evaluated_checkpoint,
)
from ndpp_dense.integrations.mmseg.run_report import report_evaluation, report_training
from ndpp_dense.reports.drawing import drawing
from ndpp_dense.reports.reporting import reported
from ndpp_dense.reports.surroundings import Clock, KeptWarnings, keeping_warnings
from ndpp_dense.training.log_files import forgiving, forgiving_writer
from ndpp_dense.training.run_folder import claimed
from ndpp_dense.training.setting_faults import faults_of_settings

__all__ = ["evaluate_or_train"]

_NEXT = "Correct the setting that it is about, in the config or among --cfg-options."


def evaluate_or_train(
    config_name: str,
    *,
    options: Sequence[str],
    weights: str | None,
    launcher: str,
    eval_only: bool,
    timeout: float,
    meant_for: int | None,
    say: Callable[..., None],
    resume: bool,
    **settings: Any,
) -> None:
    """Runs one process of a training or an evaluation.

    Args:
        config_name: Path or bare name.
        options: ``KEY=VALUE`` words, as MMEngine reads them.
        weights: In place of the config's ``load_from``.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        eval_only: Evaluate ``load_from``, or with ``resume`` the newest checkpoint.
        timeout: Minutes after which processes that do not answer are given up.
        meant_for: Processes that the config is written for; None leaves batch and learning rate as they are.
        say: Takes lines for the user, on the first rank.
        resume: Continue the newest checkpoint of the work dir.
        settings: Further ones of :func:`~ndpp_dense.integrations.mmseg.run_config.build_config`.

    Raises:
        FileNotFoundError: Config, data or weights are missing.
        KeyError: An option names a key that does not exist.
        ValueError: A setting is wrong, or the work dir holds a run and ``resume`` is not set.
        StoppedEarly: A signal asked for it.
    """
    given = {"load_from": weights} if weights else {}
    joined = dist.is_initialized()
    config = build_config(
        config_name,
        resume=resume,
        launcher="pytorch" if launcher == "none" and joined else launcher,
        options={**_read(options), **given},
        **settings,
    )
    first = joined or not int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))
    folder = {"flag": "--work-dir", "kept_in": checkpoint_folder(config)}
    with ExitStack() as stack:
        if eval_only:
            stack.enter_context(stopping_at_once("the evaluation"))
            config.load_from, config.resume = evaluated_checkpoint(config), False
        elif first:
            stack.enter_context(claimed(config.work_dir, CHECKPOINTS, resume=resume, **folder))
        if resume and not eval_only:
            choose_resumed(config)
        _run(config, eval_only, timeout, meant_for, say)


def _run(config: Config, eval_only: bool, timeout: float, meant_for: int | None, say: Callable[..., None]) -> None:
    prepare_processes(config, timeout)
    if meant_for is not None:
        lines = auto_scale(config, meant_for, ranks_of(config.launcher))
        if not dist.is_initialized() or dist.get_rank() == 0:
            say(*lines)
    with faults_of_settings("building the model and what trains it", _NEXT, flat_settings(config)):
        runner = _built(config, eval_only)
    for handler in runner.logger.handlers:
        forgiving(handler)
    for backend in runner.visualizer._vis_backends.values():
        forgiving_writer(backend, ("add_scalar", "add_scalars"), f"{config.work_dir}, losses and results")
    with keeping_warnings([runner.logger, "ndpp_dense"]) as kept:
        if eval_only:
            clock = Clock()
            runner.test()
            with drawing("evaluation.html"):
                report_evaluation(runner, clock, kept.texts)
        else:
            _train(runner, kept)
    if runner.rank == 0:
        more = ", evaluation.html" if eval_only else ", curves.png, report.html"
        say(f"results.json, predictions.png{more} in {config.work_dir}")
        if not eval_only:
            say(*_next_step(Path(config.work_dir), Path(config.filename).name))


def _next_step(folder: Path, config: str) -> list[str]:
    """How the newest of the best checkpoints, or else the last, is tried on a picture."""
    best = sorted(folder.glob("best_*.pth"), key=lambda path: path.stat().st_mtime)
    last = sorted(folder.glob("*.pth"), key=lambda path: path.stat().st_mtime)
    if not last or not (folder / config).is_file():
        return []
    words = f"--weights {(best or last)[-1]} --config {folder / config} --output out"
    return [f"Try it on a picture of yours: ndpp infer IMAGE {words}"]


def _train(runner: Any, kept: KeptWarnings) -> None:
    clock = Clock()
    with reported(lambda state, remark: report_training(runner, clock, kept.texts, state, remark)):
        with finishing_the_step():
            runner.train()
        late = runner.cfg.resume and runner.val_loop is not None
        if late and not (Path(runner.work_dir) / "results.json").is_file():
            runner.val()  # of a run that was killed after its last checkpoint


def _built(config: Config, eval_only: bool) -> Runner:
    runner = NDPPRunner.from_cfg(config)
    if not eval_only:  # in the order of Runner.train, which would do it
        runner.train_loop  # noqa: B018  (the property builds it)
        settings: Any = runner.optim_wrapper
        runner.optim_wrapper = runner.build_optim_wrapper(settings)
        _check_classes(runner)
    return runner


def _check_classes(runner: Runner) -> None:
    """A class that a head cannot tell would end training at its first label; one that no label has is a slip too."""
    loops: list[Any] = [runner.train_loop, *([runner.val_loop] if runner.val_loop is not None else [])]
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    for loop in loops:
        classes = loop.dataloader.dataset.metainfo.get("classes") or ()
        for name in ("decode_head", "auxiliary_head"):
            known = getattr(getattr(model, name, None), "num_classes", None)
            if isinstance(known, int) and known > 1 and classes and known != len(classes):
                raise ValueError(
                    f"model.{name}.num_classes is {known} and the data set has {len(classes)} classes: give as many to "
                    f"each head (--cfg-options model.{name}.num_classes={len(classes)})."
                )


def _read(words: Sequence[str]) -> dict[str, Any]:
    """The words of ``--cfg-options`` with the values that MMEngine's own scripts would read."""
    wrong = [word for word in words if "=" not in word]
    if wrong:
        raise ValueError(f"--cfg-options {wrong[0]}: it must be KEY=VALUE, such as optim_wrapper.optimizer.lr=0.05.")
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    return parser.parse_args(["--cfg-options", *words]).cfg_options if words else {}
