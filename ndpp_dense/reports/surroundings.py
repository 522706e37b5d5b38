"""Where a run takes place, and what it costs: versions, devices, time, memory, and what it was warned of."""

from __future__ import annotations

import logging
import os
import platform
import resource
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

__all__ = ["Clock", "KeptWarnings", "keeping_warnings", "peak_memory", "versions"]

_PACKAGES = (
    "ndpp-dense", "torch", "torchvision", "timm", "numpy", "pillow",
    "detectron2", "mmengine", "mmcv", "mmcv-lite", "mmsegmentation", "onedl-mmsegmentation",
)  # fmt: skip
_KEPT = 50  # different warnings


def versions(device: str = "cpu") -> dict[str, str]:
    """Python, the machine, its device and the packages that are installed, by name.

    Args:
        device: ``cuda`` where the run is on a GPU.
    """
    import torch

    found = {"Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}"}
    if device.startswith("cuda") and torch.cuda.is_available():
        found["GPU"] = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    else:
        found["CPU"] = f"{os.cpu_count()} cores, {torch.get_num_threads()} thread(s) used"
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_memory() -> dict[str, int]:
    """Bytes that this process has held at most: ``memory``, and ``GPU memory`` where torch has used one."""
    import torch

    unit = 1 if sys.platform == "darwin" else 1024
    found = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["GPU memory"] = torch.cuda.max_memory_allocated()
    return found


class Clock:
    """Seconds since it was made, and of a step; evaluations between steps do not count."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._steps: deque[float] = deque(maxlen=1000)

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._start

    @property
    def seconds_a_step(self) -> float | None:
        """Median of the last thousand; None before the first."""
        return statistics.median(self._steps) if self._steps else None

    def step(self) -> None:
        """Notes that a step has ended."""
        now = time.monotonic()
        self._steps.append(now - self._last)
        self._last = now


class KeptWarnings(logging.Handler):
    """Keeps what is logged as a warning or worse, each text once with how often it came."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record."""
        text = " ".join(record.getMessage().split())
        if text in self._counts or len(self._counts) < _KEPT:
            self._counts[text] += 1

    @property
    def texts(self) -> list[str]:
        """In order of their first time."""
        return [f"{text} ({count} times)" if count > 1 else text for text, count in self._counts.items()]


@contextmanager
def keeping_warnings(loggers: Sequence[str | logging.Logger]) -> Iterator[KeptWarnings]:
    """Inside the block what these loggers warn of is kept.

    Args:
        loggers: Or their names.
    """
    kept = KeptWarnings()
    chosen = [logging.getLogger(found) if isinstance(found, str) else found for found in loggers]
    for logger in chosen:
        logger.addHandler(kept)
    try:
        yield kept
    finally:
        for logger in chosen:
            logger.removeHandler(kept)
