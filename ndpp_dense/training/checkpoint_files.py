"""Checkpoints of a run: written with a seal, and the newest sound one chosen for resuming."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ndpp_dense.training.run_folder import RUN_FILE, note_run, read_run
from ndpp_dense.weights.seal import read_seal, write_sealed

__all__ = ["Choice", "choose_newest", "is_of_run", "save_checkpoint"]

_PREFIX = re.compile(r"cannot read \w+ .*? \(\d+ bytes\): ")


@dataclass(frozen=True)
class Choice:
    """What a run goes on from.

    Attributes:
        path: The checkpoint; None where there is none.
        damaged: Newer ones that are damaged.
        report: What to tell about them; empty where there are none.
    """

    path: Path | None = None
    damaged: list[Path] = field(default_factory=list)
    report: str = ""


def save_checkpoint(path: Path, write: Callable[[BinaryIO], Any], step: int | None, keep: Path | None = None) -> None:
    """Writes a checkpoint of the run that the folder belongs to.

    Args:
        path: File to write.
        write: Writes it to a stream, by ``torch.save``.
        step: Optimizer steps made, where training can go on from the file; None for weights that are for use.
        keep: Where the former file goes.

    Raises:
        OSError: The file could not be written; those before are whole.
    """
    # First, so that a kill in between overstates what is lost, and never understates it.
    run = note_run(path.parent, **({} if step is None else {"step": step}))
    write_sealed(path, write, {"run": run["run"], "step": step}, keep)
    if step is not None:
        # After it: a run that is killed in its first save has lost nothing, and begins anew.
        note_run(path.parent, written=True)


def choose_newest(
    candidates: Sequence[Path],
    load: Callable[[Path], Any],
    step_of: Callable[[Path], int | None],
    folder: Path,
    *,
    adopt: bool,
) -> Choice:
    """Chooses the first of some checkpoints that is as it was written, can be read, and is of this folder's run.

    Args:
        candidates: The newest first.
        load: Reads one by :func:`ndpp_dense.weights.files.read_checkpoint`, which looks at seals.
        step_of: How many optimizer steps a file has by its name; None where that does not say.
        folder: Of the run.
        adopt: Whether a folder that has lost the name of its run, or never had one, gets that of the choice: only for
            the process that has claimed it.

    Raises:
        ValueError: There are checkpoints, and none is sound; or there were some, and none is left.
    """
    run = read_run(folder)
    faults: list[str] = []
    damaged: list[Path] = []
    for path in candidates:
        try:
            load(path)
            seal = read_seal(path)
            _check_run(seal, run, candidates)
            _check_step(seal, step_of(path))
        except MemoryError:
            raise
        except Exception as error:  # whatever damaged bytes make of a reader
            size = path.stat().st_size if path.is_file() else 0
            faults.append(f"{path} ({size} bytes): {_reason(error)}")
            damaged.append(path)
            continue
        if adopt and not run:
            note_run(folder, **({"run": seal["run"], "sealed": True} if seal else {}))
        return Choice(path, damaged, _report(path, damaged, faults, step_of, run) if faults else "")
    if faults:
        raise ValueError(
            f"no checkpoint in {folder} is sound. {'. '.join(faults)}. Copy one back that is, or start again in "
            "another folder without --resume."
        )
    if run.get("written"):
        raise ValueError(
            f"{folder} has lost its checkpoints: {RUN_FILE} says that the run was saved at step {run.get('step')}, and "
            "no checkpoint is there. Copy one back, or start again without --resume: in another folder, or after "
            f"deleting {RUN_FILE}."
        )
    return Choice()


def is_of_run(path: Path, folder: Path) -> bool:
    """Whether a checkpoint is of the folder's run, as far as it says."""
    seal = read_seal(path)
    return seal is None or seal.get("run") == read_run(folder).get("run")


def _reason(error: BaseException) -> str:
    """The first sentence of an error, without the file that it is about."""
    text = _PREFIX.sub("", str(error).strip())
    return re.split(r"\n|\. ", text)[0].rstrip(".") if text else type(error).__name__


def _check_run(seal: dict[str, Any] | None, run: dict[str, Any], candidates: Sequence[Path]) -> None:
    if seal is None:
        if run.get("sealed"):
            raise ValueError("it has no seal, as all checkpoints of this run have")
        return
    if run and seal.get("run") != run["run"]:
        raise ValueError("it is a checkpoint of another run")
    others = {found.get("run") for path in candidates if (found := read_seal(path))} - {seal.get("run")}
    if not run and others:
        raise ValueError("the folder holds checkpoints of several runs, and its run.json is lost")


def _check_step(seal: dict[str, Any] | None, named: int | None) -> None:
    if seal is not None and None not in (named, seal.get("step")) and seal["step"] != named:
        raise ValueError(f"it holds step {seal['step']}, not {named}")


def _report(
    path: Path, damaged: Sequence[Path], faults: Sequence[str], step_of: Callable[[Path], int | None], run: dict
) -> str:
    """Which file is damaged, which is used instead, and what that costs."""
    own = _step(path, step_of)
    known = [step for step in [run.get("step"), *(_step(file, step_of) for file in damaged)] if isinstance(step, int)]
    lost = max(known) - own if own is not None and known else None
    cost = (
        "1 step is"
        if lost == 1
        else "an unknown number of steps is"
        if lost is None or lost < 0
        else f"{lost} steps are"
    )
    at = "" if own is None else f" (step {own})"
    return f"Falling back to the checkpoint before, {path}{at}: {cost} lost. Damaged: {'; '.join(faults)}."


def _step(path: Path, step_of: Callable[[Path], int | None]) -> int | None:
    step = step_of(path)
    if step is None:
        step = (read_seal(path) or {}).get("step")
    return step if isinstance(step, int) else None
