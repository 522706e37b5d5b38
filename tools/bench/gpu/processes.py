"""Ending processes with all that they have started, and what they said last."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

GRACE = 3.0  # seconds from a request to end until the end


def end_group(process: subprocess.Popen) -> None:
    """Ends a process and what it has started: with a request first, which lets it say where it is."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def last_line(log: Path) -> str:
    """The last line of a file that is not empty."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
