"""Asking a model about its pictures at every shift, batch by batch; what is done is kept, so that a run can go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndpp_dense.robustness.shift.borders import Shift, check_border, check_reach, translate
from ndpp_dense.robustness.shift.curve import ShiftResult
from ndpp_dense.robustness.shift.partial import PartialResults
from ndpp_dense.robustness.shift.task import Frame, Subject

__all__ = ["measure_shifts"]

Counts = dict[str, np.ndarray]  # by measure, (shifts, images, 2, size): of the answer, and of the moved first answer


@torch.no_grad()
def measure_shifts(
    subject: Subject,
    shifts: Sequence[Shift],
    *,
    border: str = "mirror",
    batch_size: int = 32,
    partial: str | Path | None = None,
    progress: bool = False,
) -> ShiftResult:
    """Measures how a model's answers change as its pictures move.

    Each batch of pictures is read once, then asked about at every shift: the cost is one forward a picture and shift.

    Args:
        subject: Model, pictures and task.
        shifts: Rows down and columns to the right, ``(0, 0)`` first, see
            :func:`ndpp_dense.robustness.shift.shift_grid`.
        border: ``"zero"``, ``"reflect"``, ``"mirror"`` or ``"circular"``, see
            :func:`ndpp_dense.robustness.shift.translate`.
        batch_size: Pictures of a forward, >= 1.
        partial: Folder for what is done, one file a batch; a later call with equal arguments goes on from there. It is
            left for the caller to remove. None keeps nothing.
        progress: Show a bar with the time left, on terminals.

    Returns:
        Counts of all pictures and shifts.

    Raises:
        ValueError: There are no pictures or shifts, the border is unknown, a picture is no larger than a shift, the
            model's answers are not finite or of another number than the pictures, or the folder holds results of other
            settings.
    """
    from tqdm import tqdm

    _check(subject, shifts, border, batch_size)
    batches = [range(i, min(i + batch_size, len(subject.images))) for i in range(0, len(subject.images), batch_size)]
    kept = PartialResults(partial, _settings(subject, shifts, border, batch_size)) if partial is not None else None
    done = {number: counts for number in range(len(batches)) if kept and (counts := kept.read(number)) is not None}
    steps = len(batches) * len(shifts)
    with tqdm(
        total=steps, initial=len(done) * len(shifts), desc=subject.name, unit="pass", disable=None if progress else True
    ) as bar:
        for number, batch in enumerate(batches):
            if number in done:
                continue
            done[number] = _ask(subject, batch, shifts, border, bar)
            if kept is not None:
                kept.write(number, done[number])
    whole = {name: np.concatenate([done[number][name] for number in range(len(batches))], axis=1) for name in done[0]}
    measures = tuple(measure for measure in subject.task.measures if measure.name in whole)
    return ShiftResult(subject.name, np.array(shifts), measures, whole, border, subject.stride)


def _check(subject: Subject, shifts: Sequence[Shift], border: str, batch_size: int) -> None:
    check_border(border)
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: it must be at least 1.")
    if subject.stride < 2:
        raise ValueError(f"stride = {subject.stride}: it must be at least 2.")
    if not len(subject.images):
        raise ValueError(f"{subject.name}: there are no images to measure.")
    if len(shifts) < 2 or tuple(shifts[0]) != (0, 0):
        raise ValueError("the shifts must begin with (0, 0) and have another: make them with shift_grid(...).")


def _settings(subject: Subject, shifts: Sequence[Shift], border: str, batch_size: int) -> dict[str, Any]:
    return {
        "name": subject.name,
        "task": subject.task.name,
        "images": len(subject.images),
        "border": border,
        "batch_size": batch_size,
        "shifts": [list(map(int, shift)) for shift in shifts],
        **subject.facts,
    }


def _ask(subject: Subject, batch: range, shifts: Sequence[Shift], border: str, bar: Any) -> Counts:
    """The counts of some pictures at all shifts."""
    task = subject.task
    pictures, targets = zip(*(subject.images[number] for number in batch), strict=True)
    for number, picture in zip(batch, pictures, strict=True):
        for shift in shifts:
            check_reach(_size(picture), shift, border, f"image {number}")
    together = torch.stack(pictures) if len({picture.shape for picture in pictures}) == 1 else None
    found: dict[str, list[list[np.ndarray]]] = {}
    first: list[Any] = []
    for shift in shifts:
        moved = (
            [translate(p, shift, border) for p in pictures] if together is None else translate(together, shift, border)
        )
        answers = _answers(subject, moved, batch, shift)
        first = first or answers
        rows: dict[str, list[np.ndarray]] = {}
        for picture, answer, before, target in zip(pictures, answers, first, targets, strict=True):
            frame = Frame(_size(picture), shift, border)
            before = task.move(before, frame)
            target = None if target is None else task.move(target, frame)
            own = task.counts(task.crop(answer, frame), before, target)
            reference = task.counts(before, before, target)
            for name in own:
                rows.setdefault(name, []).append(np.stack([own[name], reference[name]]))
        for name, row in rows.items():
            found.setdefault(name, []).append(row)
        bar.update(1)
    partly = [name for name, values in found.items() if len({len(row) for row in values} | {len(batch)}) > 1]
    if partly:
        raise ValueError(
            f"images {batch[0]} to {batch[-1]}: some have labels and some have none ({', '.join(partly)})."
        )
    return {name: np.asarray(values, dtype=np.float32) for name, values in found.items()}


def _answers(subject: Subject, pictures: Tensor | list[Tensor], batch: range, shift: Shift) -> list[Any]:
    answers = list(subject.predict(pictures))
    if len(answers) != len(batch):
        raise ValueError(f"{subject.name} gave {len(answers)} answers to {len(batch)} images.")
    for number, answer in zip(batch, answers, strict=True):
        fault = subject.task.check(answer)
        if fault:
            raise ValueError(
                f"{subject.name}, image {number} at shift {shift[0]} down, {shift[1]} right: {fault}. Are these the "
                f"weights of this network, and is the task {subject.task.name}?"
            )
    return answers


def _size(picture: Tensor) -> tuple[int, int]:
    return int(picture.shape[-2]), int(picture.shape[-1])
