"""The training loop: steps, evaluations, checkpoints, and resuming at any step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from timm.utils.random import random_seed

from ndpp_dense import ramp_local_scale
from ndpp_dense.distributed.main_rank import decided_by_main
from ndpp_dense.distributed.stopping import EvaluationStopped, StoppedEarly, finishing_the_step
from ndpp_dense.pretrain import checkpoint
from ndpp_dense.pretrain.calibration import build_to_start
from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.evaluation import evaluate
from ndpp_dense.pretrain.images import Images
from ndpp_dense.pretrain.noted import Noted
from ndpp_dense.pretrain.processes import is_main, rank, world_size
from ndpp_dense.pretrain.progress import Progress
from ndpp_dense.pretrain.state import TrainingState
from ndpp_dense.pretrain.stream import Batch, TrainStream, ValidationShard, train_batches, validation_batches
from ndpp_dense.reports.surroundings import Clock
from ndpp_dense.training.nonfinite import nonfinite_parameters
from ndpp_dense.training.prepare import NORM_RULES, norm_decisions
from ndpp_dense.training.settings import changed_settings, flat_settings

__all__ = ["HELD_SETTINGS", "Pretrainer"]

# Part of the optimizer's state in a checkpoint, and the weights themselves: a resumed run goes on with them.
HELD_SETTINGS = ("lr", "warmup_lr", "min_lr", "momentum", "weight_decay", "weights")

_log = logging.getLogger(__name__)


class Pretrainer:
    """Trains a classifier.

    A run that is killed at any moment and resumed ends with the same bits as one that was left alone, on the same
    number of processes and with deterministic kernels (the CPU's are).

    Args:
        config: Settings.
        train: Training images.
        val: Validation images, of the same classes.
        device: Where to train.
        output: Folder of the run.
        resume: Whether :meth:`resume` will be called: what is resumed is not calibrated.

    Attributes:
        state: Weights and everything else that changes.
        total: Optimizer steps of the whole run.
        sets: Training and validation images.
        noted: What the last evaluation found by class and image; None before it.
        clock: Times the steps.

    Raises:
        FileNotFoundError: ``config.weights`` names no file.
        ValueError: Settings, images and network do not fit together.
    """

    def __init__(
        self,
        config: PretrainConfig,
        train: Images,
        val: Images,
        device: torch.device,
        output: str | Path,
        resume: bool = False,
    ) -> None:
        self.config = config
        self.device = device
        self.output = Path(output)
        self.sets = {"training": train, "validation": val}
        self.noted: Noted | None = None
        self.clock = Clock()
        self._images, self._val = train, val
        self._last_is_sound = True
        self._held: dict[str, Any] = {}  # settings that a checkpoint has decided
        stream = self._stream(config.seed, 0)
        self._micro_batch_size = stream.micro_batch_size
        random_seed(config.seed)  # equal weights on all ranks
        newest = decided_by_main(lambda: checkpoint.newest_sound(self.output)).path if resume else None
        network = build_to_start(config, len(train.classes), device, self._stats_batches, newest)
        self.state = TrainingState(
            config, network, len(train.classes), stream.steps_per_epoch, self._stats_batches, device
        )
        self.total = config.epochs * stream.steps_per_epoch
        random_seed(config.seed, rank())  # erasing, mixing and dropout of its own on every rank

    def resume(self) -> bool:
        """Continues the newest sound checkpoint of the output folder.

        Returns:
            Whether there was one.

        Raises:
            CheckpointReadError: There are checkpoints, and none is sound.
            ValueError: The checkpoint belongs to another run.
        """
        choice = decided_by_main(lambda: checkpoint.newest_sound(self.output, adopt=True))
        found = choice.path
        if choice.report and is_main():
            _log.warning("%s", choice.report)
        self._last_is_sound = not choice.damaged
        if found is None:
            _log.warning("Nothing to resume in %s: starting from the beginning.", self.output)
            return False
        saved = checkpoint.read_checkpoint(found)
        try:
            self._compare_settings(saved.get("config", {}))
            before, now = saved["data"], self._data_facts()
            self.state.load_state_dict(saved)
            self.state.take_settings(replace(self.config, **self._held))
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"checkpoint {found} does not fit this run: {reason[:500]}. Was it made with other settings? Use "
                "those, or another --output, or leave --resume out."
            ) from error
        if before != now:
            _log.warning("The training data changed from %s to %s: the resume is not exact.", before, now)
        _log.info("Resuming from %s at step %d of %d.", found, self.state.done, self.total)
        return True

    def train(self) -> dict[str, dict[str, float]]:
        """Trains to the last epoch, evaluates, and writes checkpoints and reports.

        Returns:
            Last and best results, see :meth:`ndpp_dense.pretrain.record.Record.results`.

        Raises:
            FloatingPointError: Training diverged; names the layer and the last good checkpoint.
            StoppedEarly: The process got a signal to stop; everything is saved.
            ValueError: An image is unreadable; names the file.
        """
        config, state = self.config, self.state
        batches = train_batches(self._stream(config.seed, state.done), config, self.device)
        showing = Progress(self.total, state.done, config.batch_size, is_main(), config.log_every)
        with finishing_the_step(), showing as progress:
            if state.evaluation_is_owed:  # a signal had broken it off
                self._end_epoch(state.done // state.steps_per_epoch, state.record.losses[-1][2])
            while state.done < self.total:
                lr, last = state.lr, self.output / checkpoint.LAST
                ramp_local_scale(state.network, state.done)
                micro_batches = [next(batches) for _ in range(config.accumulation)]
                state.advance(state.step(micro_batches, state.done, str(last) if last.exists() else None))
                self.clock.step()
                progress.step((state.done - 1) // state.steps_per_epoch + 1, state.epoch_loss, lr)
                if state.done % state.steps_per_epoch == 0:
                    self._end_epoch(state.done // state.steps_per_epoch, lr)
                elif (config.save_every and state.done % config.save_every == 0) or state.step.stop_agreed:
                    self._save_within_epoch()
                if state.step.stop_agreed and state.done < self.total:
                    self._stop()
        if is_main():
            state.record.write(self.output)
        return state.record.results()

    def evaluate(self) -> dict[str, float]:
        """Evaluates the deployed weights as they are; see :func:`ndpp_dense.pretrain.evaluation.evaluate`."""
        shard = ValidationShard(self._val, rank(), world_size())
        batches = validation_batches(shard, self.config, self.device, self._micro_batch_size)
        noted = Noted(len(self._val.classes), self.device)
        results = evaluate(self.state.deployed, batches, self.config, self.device, noted)
        self.noted = noted
        return results

    def _end_epoch(self, epoch: int, lr: float) -> None:
        """Evaluates if it is time, then saves: with the same statistics."""
        state = self.state
        self._check_weights()
        state.stats.lend()
        row = {"epoch": epoch, "step": state.done, "lr": lr, "train_loss": state.epoch_loss}
        if epoch % self.config.eval_every == 0 or epoch == self.config.epochs:
            try:
                row.update(self.evaluate())
            except EvaluationStopped:
                self._save_last()
                self._stop()
            _log.info("epoch %d: top-1 %.2f, top-5 %.2f, loss %.4f", epoch, row["top1"], row["top5"], row["loss"])
        state.record.epochs.append(row)
        # The best before the last: a kill between the two repeats the epoch, and none is lost.
        if state.record.best is row and is_main():
            best = {"model": state.deployed.state_dict(), "results": row, **self._facts()}
            checkpoint.save_checkpoint(self.output / checkpoint.BEST, best)
        self._save_last()
        state.stats.take_back()
        if is_main():
            state.record.write(self.output)

    def _save_within_epoch(self) -> None:
        self._check_weights()
        self.state.stats.lend()
        self._save_last()
        self.state.stats.take_back()

    def _stop(self) -> None:
        stop = StoppedEarly(
            f"stopped by a signal after step {self.state.done} of {self.total}: {self.output / checkpoint.LAST} is "
            "complete, --resume goes on from there."
        )
        _log.warning("%s", stop)
        raise stop

    def _save_last(self) -> None:
        saved = {**self.state.state_dict(), "data": self._data_facts(), **self._facts()}  # every rank takes part
        if is_main():
            # What is damaged must not take the place of what is not.
            previous = self.output / checkpoint.PREVIOUS if self._last_is_sound else None
            checkpoint.save_checkpoint(self.output / checkpoint.LAST, saved, previous)
            self._last_is_sound = True

    def _check_weights(self) -> None:
        broken = nonfinite_parameters(self.state.network)
        if broken:
            raise FloatingPointError(
                f"training diverged, and nothing was saved at step {self.state.done}: {len(broken)} parameters hold "
                f"NaN or infinity, first {broken[0]!r}. The last good checkpoint is "
                f"{self.output / checkpoint.LAST}. Try a lower lr."
            )

    def _compare_settings(self, before: dict[str, Any]) -> None:
        """Says what changed. A new optimizer cannot go on from the state of another."""
        now = asdict(self.config)
        if before.get("optimizer", now["optimizer"]) != now["optimizer"]:
            raise ValueError(f"optimizer = {now['optimizer']!r}, but it was {before['optimizer']!r}")
        known = {name: value for name, value in before.items() if name in now and name != "calibrate"}
        for line in changed_settings(flat_settings(now), flat_settings({**now, **known}), HELD_SETTINGS):
            _log.warning("%s", line)
        self._held = {name: known[name] for name in HELD_SETTINGS if name in known}

    def _facts(self) -> dict[str, Any]:
        config = {**asdict(self.config), **self._held, "calibrate": False}  # what it holds is
        facts = {"config": config, "classes": list(self._images.classes)}
        decisions = norm_decisions(self.state.network)
        return facts if decisions is None else {**facts, NORM_RULES: decisions}

    def _data_facts(self) -> dict[str, int]:
        facts = {name: getattr(self.config, name) for name in ("seed", "batch_size", "accumulation")}
        return {**facts, "images": len(self._images)}

    def _stream(self, seed: int, start: int) -> TrainStream:
        return TrainStream(self._images, self.config, seed, start, rank(), world_size())

    def _stats_batches(self, seed: int) -> Iterator[Batch]:
        return train_batches(self._stream(seed, 0), self.config, self.device, workers=0)
