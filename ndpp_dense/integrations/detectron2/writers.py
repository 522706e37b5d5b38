"""What records losses and results in files: Detectron2's writers, which a full disk does not end a run by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter

from ndpp_dense.training.log_files import forgiving_writer

__all__ = ["open_writers"]


def open_writers(folder: Path, **tensorboard: Any) -> list[EventWriter]:
    """Opens ``metrics.json`` and TensorBoard's file.

    Args:
        folder: Of the run; must exist.
        **tensorboard: For its ``SummaryWriter``.
    """
    numbers = JSONWriter(str(folder / "metrics.json"))
    forgiving_writer(numbers, ("write", "close"), str(folder / "metrics.json"))
    events = TensorboardXWriter(str(folder), **tensorboard)
    name = f"{folder}, TensorBoard"
    try:
        # It writes in a thread, whose errors would be tracebacks.
        files: Any = events._writer._get_file_writer().event_writer._async_writer._writer
        forgiving_writer(files, ("write", "flush", "close"), name)
    except AttributeError:  # other releases keep it elsewhere
        forgiving_writer(events, ("write", "close"), name)
    return [numbers, events]
