"""The training loop: exact resume, gradient accumulation, mixed precision, ND++ statistics, and a guard against NaN."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ndpp_dense import micro_batches_of_step, ramp_local_scale
from ndpp_dense.distributed.compression import check_compression, compress_gradients
from ndpp_dense.distributed.parallel import data_parallel
from ndpp_dense.distributed.stopping import StoppedEarly, finishing_the_step, stop_agreed, stop_vote
from ndpp_dense.integrations.detectron2.calibration import build_to_start
from ndpp_dense.integrations.detectron2.checkpoint import NDCheckpointer
from ndpp_dense.integrations.detectron2.config import AMP_DTYPES, HELD_SETTINGS, UNIMPORTANT_SETTINGS
from ndpp_dense.integrations.detectron2.evaluation import evaluate, main_metric, write_report
from ndpp_dense.integrations.detectron2.hooks import BestHook, FinishedEvalHook, ProgressBar, StatsHook, StopHook
from ndpp_dense.integrations.detectron2.loader import TrainData
from ndpp_dense.integrations.detectron2.mapper import CheckedDatasetMapper
from ndpp_dense.integrations.detectron2.region_mean import RegionMean
from ndpp_dense.integrations.detectron2.writers import open_writers
from ndpp_dense.reports.drawing import drawing
from ndpp_dense.reports.spectra import conditions_picture
from ndpp_dense.training.nonfinite import divergence_message, first_nonfinite_layer
from ndpp_dense.training.rng import get_rng_state, set_rng_state
from ndpp_dense.training.settings import changed_settings, flat_settings, held_settings

__all__ = ["ADVICE", "NDTrainer"]

ADVICE = (
    "Try a lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS, SOLVER.CLIP_GRADIENTS.ENABLED True, "
    "or a larger MODEL.NDPP.EPS if the layer is an ND++ layer."
)
_log = logging.getLogger(__name__)


class NDTrainer(TrainerBase):
    """Train the model of a Detectron2 configuration.

    A run that is killed at any moment and resumed ends with the same bits as one that was left alone, on the same
    number of processes and with deterministic kernels (the CPU's are).

    Args:
        cfg: Detectron2 configuration with the keys of ``add_ndpp_config``.
        resume: whether :meth:`resume_or_load` will look for a checkpoint: what is resumed is not calibrated.

    Raises:
        ValueError: if a setting is out of range.
    """

    def __init__(self, cfg: CfgNode, resume: bool = False) -> None:
        super().__init__()
        self.cfg = cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.data = TrainData(cfg, CheckedDatasetMapper(cfg, True))  # pyright: ignore[reportCallIssue]
        self.data_seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.net, loaded = build_to_start(cfg, lambda: self.data, resume)
        self._weights = None if loaded else cfg.MODEL.WEIGHTS
        self.net.train()
        self.optimizer = build_optimizer(cfg, self.net)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.scaler = _grad_scaler(cfg)
        self.model = _distributed(cfg, self.net)
        self.region_mean = RegionMean(self.net) if cfg.SOLVER.MEAN_OVER_ALL_REGIONS else None
        self.results: dict[str, Any] = {}
        self._settings = flat_settings(cfg, UNIMPORTANT_SETTINGS)
        self.last_evaluation_stopped = False
        self.stop_agreed = False  # whether any rank was asked to stop, known to all after a step
        self._batches: Iterator[list[dict]] | None = None
        self.checkpointer = NDCheckpointer(
            self.net, cfg.OUTPUT_DIR, keep=cfg.SOLVER.CHECKPOINT_KEEP, trainer=weakref.proxy(self)
        )
        self.register_hooks(self._build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the newest checkpoint in ``OUTPUT_DIR``, or load ``MODEL.WEIGHTS`` and start from iteration 0.

        Args:
            resume: look for a checkpoint to continue first.
        """
        self.checkpointer.resume_or_load(self._weights, resume=resume)

    def train(self) -> dict[str, Any]:
        """Train to ``SOLVER.MAX_ITER``, evaluate, and write the report.

        Returns:
            The final results on the main rank, see :func:`evaluate`; empty on the others.

        Raises:
            FloatingPointError: if training diverges; the message names the layer and the last good checkpoint.
            StoppedEarly: a signal asked for it; everything is saved.
        """
        if comm.is_main_process():
            self.register_hooks(self._build_recorders())
        self.register_hooks([StopHook(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD)])
        if self.start_iter >= self.max_iter:
            self.checkpointer.complete()
        with finishing_the_step():
            super().train(self.start_iter, self.max_iter)
        if self.last_evaluation_stopped:
            raise StoppedEarly(
                "stopped by a signal during the last evaluation: model_final.pth is complete, --resume evaluates it."
            )
        if comm.is_main_process():
            write_report(self.cfg, self.results)
        return self.results

    def run_step(self) -> None:
        """Make one optimizer step from ``SOLVER.ACCUMULATION_STEPS`` micro-batches of the batch."""
        micro_batches, data_time = self._load_micro_batches()
        ramp_local_scale(self.net, self.iter)
        rng = get_rng_state()
        self.optimizer.zero_grad(set_to_none=True)
        try:
            losses = self._accumulate_gradients(micro_batches)
        except FloatingPointError as error:  # Detectron2 found non-finite proposals, maybe on this rank only
            raise self._divergence(str(error), micro_batches, rng, alone=comm.get_world_size() > 1) from error
        losses, self.stop_agreed = _mean_over_ranks(losses)
        if not all(math.isfinite(value) for value in losses.values()):
            shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            raise self._divergence(f"the losses are {shown}", micro_batches, rng, alone=False)
        self._check_all_took_part()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for name, value in {**losses, "total_loss": sum(losses.values()), "data_time": data_time}.items():
            self.storage.put_scalar(name, value)

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the model that a resumed run needs."""
        return {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "data": self._data_facts(),
            "settings": self._settings,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned; training goes on with the iteration after the saved one."""
        super().load_state_dict(state_dict)
        self.start_iter = self.iter + 1
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if self.scaler.is_enabled() and state_dict["scaler"]:
            self.scaler.load_state_dict(state_dict["scaler"])
        self.data_seed = state_dict["data"]["seed"]
        self._compare_settings(state_dict.get("settings"))
        before, now = state_dict["data"], self._data_facts()
        if now != before:
            _log.warning("The training data changed from %s to %s: the resume is not exact.", before, now)

    def _compare_settings(self, before: dict[str, str] | None) -> None:
        if before is None:  # of a release that did not keep them
            return
        for line in changed_settings(self._settings, before, HELD_SETTINGS):
            _log.warning("%s", line)
        self._settings = held_settings(self._settings, before, HELD_SETTINGS)

    def _data_facts(self) -> dict[str, int]:
        return {
            "seed": self.data_seed,
            "images": len(self.data.dicts),
            "batch": self.cfg.SOLVER.IMS_PER_BATCH,
            "portions": self.cfg.SOLVER.ACCUMULATION_STEPS,
        }

    def _load_micro_batches(self) -> tuple[list[list[dict]], float]:
        """Take the next micro-batches of data; returns them and the seconds it took."""
        start = time.perf_counter()
        steps = self.cfg.SOLVER.ACCUMULATION_STEPS
        if self._batches is None:
            self._batches = self.data.batches(self.data_seed, skip=self.start_iter * steps)
        return [next(self._batches) for _ in range(steps)], time.perf_counter() - start

    def _accumulate_gradients(self, micro_batches: list[list[dict]]) -> dict[str, torch.Tensor]:
        """Add up the gradients of all micro-batches; returns the mean of each loss, detached."""
        sums: dict[str, torch.Tensor] = {}
        statistics = micro_batches_of_step(
            self.net, len(micro_batches), lambda: self._forward(self.net, sum(micro_batches, []))
        )
        for index, batch in enumerate(micro_batches):
            with statistics[index], contextlib.ExitStack() as stack:
                if index < len(micro_batches) - 1 and isinstance(self.model, DistributedDataParallel):
                    stack.enter_context(self.model.no_sync())  # gradients are exchanged once a step
                losses = self._forward(self.model, batch)
                if self.region_mean is not None:
                    losses = self.region_mean.weigh(losses)
                self.scaler.scale(torch.stack(list(losses.values())).sum() / len(micro_batches)).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach().float() / len(micro_batches)
        return sums

    def _forward(self, model: nn.Module, batch: list[dict]) -> dict[str, torch.Tensor]:
        device = torch.device(self.cfg.MODEL.DEVICE).type
        with torch.autocast(device, _amp_dtype(self.cfg), enabled=self.cfg.SOLVER.AMP.ENABLED):
            losses = model(batch)
        return losses if isinstance(losses, dict) else {"loss": losses}

    def _check_all_took_part(self) -> None:
        """Name unused parameters after the first step: DistributedDataParallel's own error only numbers them."""
        searching = self.cfg.SOLVER.FIND_UNUSED_PARAMETERS
        if self.iter > self.start_iter or self.model is self.net or searching:
            return
        unused = [name for name, p in self.net.named_parameters() if p.requires_grad and p.grad is None]
        if unused:
            raise ValueError(
                f"{len(unused)} parameters took no part in the loss: {', '.join(unused[:8])}. "
                "Remove them or set SOLVER.FIND_UNUSED_PARAMETERS True."
            )

    def _divergence(self, cause: str, micro_batches: list, rng: dict[str, Any], *, alone: bool) -> FloatingPointError:
        """Repeat the step to find the layer where it went wrong, and describe it."""
        set_rng_state(rng)
        layer = first_nonfinite_layer(
            self.net, lambda: [self._forward(self.net, batch) for batch in micro_batches], alone=alone
        )
        if not alone:  # all ranks are here: tell the same story everywhere
            layer = next((found for found in comm.all_gather(layer) if found), None)
        good = self.checkpointer.get_checkpoint_file() if self.checkpointer.has_checkpoint() else None
        return FloatingPointError(divergence_message(self.iter, cause, layer, good, ADVICE))

    def _evaluate(self) -> dict[str, Any]:
        self.results = evaluate(self.cfg, self.net)
        if comm.is_main_process():
            with drawing("the condition numbers for TensorBoard"):
                picture = conditions_picture(self.net)
                if picture is not None:
                    self.storage.put_image("ndpp/condition_numbers", picture.transpose(2, 0, 1))
        return self.results

    def _build_hooks(self) -> list[HookBase | None]:
        cfg, main = self.cfg, comm.is_main_process()
        eval_period, save_period = cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD
        stats = StatsHook(self.net, self._stats_batches, (eval_period, save_period), cfg.TEST.STATS_BATCHES)
        best = BestHook(eval_period, self.checkpointer, main_metric(cfg)) if main and cfg.DATASETS.TEST else None
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            stats,
            FinishedEvalHook(eval_period, self._evaluate, stats, best) if cfg.DATASETS.TEST else None,
            best,
            # After the evaluation, so that the best value so far is part of the checkpoint.
            hooks.PeriodicCheckpointer(self.checkpointer, save_period),
        ]

    def _build_recorders(self) -> list[HookBase | None]:
        """Make the hooks that open files and draw on the terminal, of the main rank."""
        folder = Path(self.cfg.OUTPUT_DIR)
        folder.mkdir(parents=True, exist_ok=True)
        writers = open_writers(folder)
        if sys.stderr.isatty():
            return [hooks.PeriodicWriter(writers, self.cfg.SOLVER.LOG_PERIOD), ProgressBar(main_metric(self.cfg))]
        return [hooks.PeriodicWriter([CommonMetricPrinter(self.max_iter), *writers], self.cfg.SOLVER.LOG_PERIOD)]

    def _stats_batches(self, seed: int) -> Iterator[list[dict]]:
        return self.data.batches(seed, num_workers=0)


def _amp_dtype(cfg: CfgNode) -> torch.dtype:
    if cfg.SOLVER.AMP.DTYPE not in AMP_DTYPES:
        raise ValueError(f"SOLVER.AMP.DTYPE is '{cfg.SOLVER.AMP.DTYPE}'; the choices are {', '.join(AMP_DTYPES)}.")
    return getattr(torch, cfg.SOLVER.AMP.DTYPE)


def _grad_scaler(cfg: CfgNode) -> torch.amp.GradScaler:
    """Scale the loss for float16, whose small gradients vanish; bfloat16 has float32's range and needs none."""
    enabled = cfg.SOLVER.AMP.ENABLED and _amp_dtype(cfg) is torch.float16
    return torch.amp.GradScaler(torch.device(cfg.MODEL.DEVICE).type, enabled=enabled)


def _distributed(cfg: CfgNode, model: nn.Module) -> nn.Module:
    check_compression(cfg.SOLVER.GRAD_COMPRESSION)
    if comm.get_world_size() == 1:
        return model
    search = cfg.SOLVER.FIND_UNUSED_PARAMETERS
    parallel = data_parallel(model, torch.device(cfg.MODEL.DEVICE), find_unused_parameters=search)
    compress_gradients(parallel, cfg.SOLVER.GRAD_COMPRESSION)
    return parallel


def _mean_over_ranks(losses: dict[str, torch.Tensor]) -> tuple[dict[str, float], bool]:
    """Average each loss over all ranks in one exchange; NaN and infinity anywhere show up everywhere.

    Also says whether any rank was asked to stop.
    """
    values = torch.stack(list(losses.values()))
    values = torch.cat([values, values.new_tensor([stop_vote()])])
    if comm.get_world_size() > 1:
        dist.all_reduce(values)
    *sums, votes = values.tolist()
    means = (value / comm.get_world_size() for value in sums)
    return dict(zip(losses, means, strict=True)), stop_agreed(votes)
