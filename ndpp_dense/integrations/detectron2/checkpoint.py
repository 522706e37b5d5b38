"""Checkpoints that survive a kill at any moment and resume a run exactly."""

from __future__ import annotations

import difflib
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from ndpp_dense.atomic_file import replacing
from ndpp_dense.distributed.main_rank import decided_by_main
from ndpp_dense.integrations.detectron2.reading import as_detectron2
from ndpp_dense.redaction import redacted
from ndpp_dense.training.checkpoint_files import choose_newest, is_of_run, save_checkpoint
from ndpp_dense.training.nonfinite import nonfinite_parameters
from ndpp_dense.training.prepare import NORM_RULES, norm_decisions
from ndpp_dense.training.rng import get_rng_state, set_rng_state
from ndpp_dense.weights.files import read_checkpoint
from ndpp_dense.weights.seal import read_seal

__all__ = ["CHECKPOINTS", "CheckpointReadError", "NDCheckpointer"]

_log = logging.getLogger(__name__)
CHECKPOINTS = ("model_*.pth",)  # patterns of a run's files
_PERIODIC = re.compile(r"model_(\d{7,})\.pth")
_POINTER = "last_checkpoint"
_BEST = "model_best"


class CheckpointReadError(ValueError):
    """A checkpoint file is truncated, corrupt or of an unknown kind."""


class NDCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic files, fallback to an older file, and every rank's random state.

    Weights in any format that Detectron2 reads (``.pkl``, ``detectron2://``, ``https://``) load as before.

    A full checkpoint holds the model, everything registered in `checkpointables` (the trainer with its optimizer,
    scheduler, loss scaler and data position), the iteration, the random state of all ranks and their number.
    ``model_best.pth`` holds the model only: it is for use, not for resuming.

    Args:
        model: the model, plain or in DistributedDataParallel.
        save_dir: folder of the run, shared by all machines.
        keep: number of periodic checkpoints (``model_0000123.pth``) that stay on disk, at least 1.
        **checkpointables: objects with ``state_dict()`` and ``load_state_dict()``.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, keep: int = 2, **checkpointables: Any) -> None:
        super().__init__(model, save_dir, **checkpointables)
        if keep < 1:
            raise ValueError(f"SOLVER.CHECKPOINT_KEEP={keep}: one checkpoint at least must stay, set it to 1 or more.")
        self.keep = keep
        self.unmatched: list[str] = []  # weights of the model that the loaded file has not, or in another shape
        self._resumed: Path | None = None
        self._damaged: list[Path] = []  # what the run was not resumed from

    def save(self, name: str, **extra: Any) -> None:
        """Write ``<name>.pth``. Full checkpoints must be saved by all ranks together, the best one need not.

        A kill at any moment leaves either the former file or the new one, and the pointer ``last_checkpoint``
        on a complete file.

        Args:
            name: file name without folder and suffix.
            **extra: further entries, of types that ``torch.load(..., weights_only=True)`` reads.

        Raises:
            FloatingPointError: if a weight is NaN or infinite; then nothing is written.
        """
        if not self.save_dir:
            return
        broken = nonfinite_parameters(self.model)
        if broken:
            raise FloatingPointError(
                f"{name}.pth was not written: {len(broken)} parameters hold NaN or infinity, first '{broken[0]}'. "
                f"The last good checkpoint is {self.get_checkpoint_file() or 'none'}. Try a lower SOLVER.BASE_LR."
            )
        data = {"model": self.model.state_dict(), **extra}
        decisions = norm_decisions(self.model)
        if decisions is not None:
            data[NORM_RULES] = decisions
        if name != _BEST:
            data.update(rng=comm.gather(get_rng_state()), world_size=comm.get_world_size())
            data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        if not self.save_to_disk:
            return
        file = Path(self.save_dir) / f"{name}.pth"
        _log.info("Saving checkpoint to %s", file)
        step = extra["iteration"] + 1 if name != _BEST and "iteration" in extra else None
        save_checkpoint(file, lambda stream: torch.save(data, stream), step)
        if name != _BEST:
            self.tag_last_checkpoint(file.name)
            self._drop_old(file)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Point ``last_checkpoint`` at a file of the same folder, atomically."""
        with replacing(Path(self.save_dir) / _POINTER) as made, made.open("w", encoding="utf-8") as stream:
            stream.write(last_filename_basename)
            stream.flush()
            os.fsync(stream.fileno())

    def get_checkpoint_file(self) -> str:
        """The file that ``last_checkpoint`` names, whatever is in it; empty where there is none."""
        try:
            name = (Path(self.save_dir) / _POINTER).read_text(encoding="utf-8", errors="replace").strip("\0 \n\r\t")
        except OSError:
            return ""
        return str(Path(self.save_dir) / Path(name).name)

    def resume_or_load(self, path: str | None, *, resume: bool = True) -> dict[str, Any]:
        """Continue the newest readable checkpoint of `save_dir`, or else load the weights in `path`.

        Args:
            path: weights for a fresh start; empty for none, None where the model has those that it starts with.
            resume: look for checkpoints first. Every rank must be able to read `save_dir`.

        Returns:
            What the checkpoint holds beyond the model and the checkpointables; ``iteration`` is present after a resume.

        Raises:
            CheckpointReadError: if there are checkpoints and none is readable.
            ValueError: if the checkpoint belongs to a different model.
            FileNotFoundError: if `path` names no file.
        """
        file = self.newest() if resume else None
        if file is not None:
            return self._restore(file)
        if resume:
            source = "calibrated weights" if path is None else f"weights {path!r}" if path else "random weights"
            _log.warning("Nothing to resume in %s: starting fresh from %s.", self.save_dir, source)
        return {} if path is None else self.load(path, checkpointables=[])

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load weights that the user named; see :meth:`DetectionCheckpointer.load`.

        Raises:
            FileNotFoundError: if there is no such file, with the nearest names beside it.
            CheckpointReadError: if the file can't be read.
        """
        if not path:  # Detectron2 calls that "from scratch", of backbones that were built with weights too
            _log.info("MODEL.WEIGHTS is empty: the model keeps the weights that it was built with.")
            return {}
        self._check_there(path)
        try:
            return super().load(path, *args, **kwargs)
        finally:
            if hasattr(self, "_parsed_url_during_load"):  # which Detectron2 leaves set after an error
                self._parsed_url_during_load = None

    def _check_there(self, path: str) -> None:
        if not os.path.isfile(self.path_manager.get_local_path(path)):
            folder = os.path.dirname(path) or "."
            names = os.listdir(folder) if os.path.isdir(folder) else []
            near = difflib.get_close_matches(os.path.basename(path), names, n=3)
            hint = f"nearest names there: {', '.join(near)}" if near else f"folder exists: {os.path.isdir(folder)}"
            raise FileNotFoundError(f"checkpoint {redacted(path)} not found ({hint}). Correct MODEL.WEIGHTS.")

    def read(self, path: str) -> dict[str, Any]:
        """What a file holds, its weights under ``"model"``; nothing is loaded.

        Raises:
            FileNotFoundError: if there is no such file.
            CheckpointReadError: if the file can't be read.
        """
        self._check_there(path)
        return self._load_file(self.path_manager.get_local_path(path))

    def newest(self) -> Path | None:
        """The checkpoint from which :meth:`resume_or_load` would go on; to be called by all ranks.

        Raises:
            CheckpointReadError: if there are checkpoints and none is readable.
        """
        return decided_by_main(self._newest_sound)

    def complete(self) -> None:
        """Write ``model_final.pth`` of a run that was killed between its last periodic checkpoint and that one.

        They hold the same. To be called by all ranks, after a resume at the end of the run.
        """
        final = Path(self.save_dir) / "model_final.pth"
        if self.save_to_disk and self._resumed not in (None, final):
            with replacing(final) as made:
                shutil.copyfile(self._resumed, made)
            self.tag_last_checkpoint(final.name)

    def _load_model(self, checkpoint: Any) -> Any:
        """Load weights, and log how many of the backbone's were found.

        Raises:
            ValueError: if nothing fits.
        """
        names_in_file = sorted(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        counters = ".num_batches_tracked"  # which files leave out, and nothing needs
        state = self.model.state_dict()
        names = [name for name in state if name.startswith("backbone.") and not name.endswith(counters)]
        body = [
            name for name in names if name.startswith("backbone.bottom_up.")
        ] or names  # a pyramid is not pretrained
        _check_any(state, incompatible, names_in_file)
        lacking = {*incompatible.missing_keys, *(name for name, *_ in incompatible.incorrect_shapes)}
        self.unmatched = sorted(name for name in lacking if not name.endswith(counters))
        unmatched = [name for name in body if name in lacking]
        first = f", first {unmatched[0]}" if unmatched else ""
        loaded, level = len(body) - len(unmatched), logging.WARNING if unmatched else logging.INFO
        if body:
            message = "Backbone: %d of %d weights loaded, %d unmatched%s"
            _log.log(level, message, loaded, len(body), len(unmatched), first)
        return incompatible

    def candidates(self) -> list[Path]:
        """Checkpoints to resume from: the one that ``last_checkpoint`` names, then the others, the furthest first."""
        files = [file for file in Path(self.save_dir).glob("model_*.pth") if file.stem != _BEST]
        named = Path(self.get_checkpoint_file())
        return sorted(files, key=lambda file: (file == named, _step_of(file) or 0, file.name), reverse=True)

    def _newest_sound(self) -> Path | None:
        """Let the main rank choose, so that all ranks resume the same file."""
        folder, files, named = Path(self.save_dir), self.candidates(), self.get_checkpoint_file()
        if named and not os.path.isfile(named):
            if not files:
                raise CheckpointReadError(
                    f"{folder / _POINTER} names {named}, which is not there, and {folder} holds no other checkpoint. "
                    "Copy one back, or start again in another folder without --resume."
                )
            _log.warning("%s is damaged: it names %r, which is not there.", folder / _POINTER, Path(named).name)
        try:
            # Only what trains has claimed the folder.
            adopt = bool(self.checkpointables)
            found = choose_newest(files, read_checkpoint, _step_of, folder, adopt=adopt)
        except ValueError as error:
            raise CheckpointReadError(str(error)) from error
        self._damaged = found.damaged
        if found.report:
            _log.warning("%s", found.report)
        return found.path

    def _restore(self, file: Path) -> dict[str, Any]:
        readable = comm.all_gather(file.is_file())
        if not all(readable):
            blind = [rank for rank, seen in enumerate(readable) if not seen]
            raise FileNotFoundError(f"ranks {blind} cannot see {file}: OUTPUT_DIR must be shared by all machines.")
        _log.info("Resuming from %s", file)
        data = self._load_file(str(file))
        self._resumed = file
        try:
            self.model.load_state_dict(data.pop("model"))
            for key, item in self.checkpointables.items():
                item.load_state_dict(data.pop(key))
            self._restore_rng(data.pop("rng"), data.pop("world_size"))
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"checkpoint {file} does not fit this run: {reason[:500]}. Was it made with another configuration? "
                "Use that one, or another OUTPUT_DIR, or leave --resume out."
            ) from error
        return data

    @staticmethod
    def _restore_rng(states: list[dict[str, Any]], world_size: int) -> None:
        if world_size == comm.get_world_size():
            set_rng_state(states[comm.get_rank()])
            return
        _log.warning(
            "The checkpoint was written by %d process(es) and is resumed by %d: training goes on at the same position, "
            "but the result is not bit-identical to an uninterrupted run.",
            world_size,
            comm.get_world_size(),
        )

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read a file by this package's reader: Detectron2's own unpickles, and runs what a file asks for.

        Later releases of Detectron2 allow its own only inside :meth:`load`, and take a query after the name there.
        """
        try:
            data = as_detectron2(read_checkpoint(filename), filename)
        except (OSError, ValueError) as error:
            reason = str(error).replace("read weights", "read checkpoint", 1)
            raise CheckpointReadError(f"MODEL.WEIGHTS: {reason}") from error
        query = getattr(self, "_parsed_url_during_load", None)
        if query is not None and parse_qs(query.query).get("matching_heuristics") == ["True"]:
            data["matching_heuristics"] = True
        return data

    def _drop_old(self, newest: Path) -> None:
        """Delete the run's own periodic checkpoints but for the last ones it wrote, and what was found damaged."""
        folder = Path(self.save_dir)
        for file in self._damaged:
            if file != newest:
                file.unlink(missing_ok=True)
        self._damaged = []
        # By the time of writing: a number says nothing where a run went back to an older checkpoint.
        own = [file for file in folder.iterdir() if _PERIODIC.fullmatch(file.name) and is_of_run(file, folder)]
        own.sort(key=lambda file: (file == newest, file.stat().st_mtime_ns, file.name))
        for file in own[: -self.keep]:
            file.unlink(missing_ok=True)


def _check_any(state: dict[str, Any], incompatible: Any, names: list[str]) -> None:
    """Refuse weights of which none fits: training would begin at random, with a warning among others."""
    shapes = incompatible.incorrect_shapes
    wanted = [name for name in state if not name.endswith(".num_batches_tracked")]
    if not wanted or {*incompatible.missing_keys, *(name for name, *_ in shapes)}.issuperset(wanted):
        where = ", ".join(names[:3]) or "nothing"
        ways = "`ndpp convert` makes files that fit from backbones of others"
        if any(".body.network." in name for name in wanted):
            ways = "weights of the backbone alone, by timm's names, go to MODEL.TIMM.WEIGHTS"
        raise ValueError(
            f"MODEL.WEIGHTS: none of the {len(wanted)} weights of the model is in the file ({len(shapes)} have another "
            f"shape): the file begins with {where}, the model with {', '.join(wanted[:3])}. Give the config that they "
            f"are of; {ways}."
        )


def _step_of(file: Path) -> int | None:
    found = _PERIODIC.fullmatch(file.name)
    return int(found[1]) + 1 if found else (read_seal(file) or {}).get("step")
