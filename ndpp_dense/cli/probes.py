"""Code that is run in a process of its own, where a crash or a conflict does no harm, without a new import of torch.

A server imports torch once and is forked for every probe. Where there is no forking, or where the import of torch
itself brings the server down, each probe is a new interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

__all__ = ["in_a_process"]

_TIMEOUT = 120.0  # seconds


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code, and returns its exit code and what it wrote.

    Raises:
        subprocess.TimeoutExpired: It took more than two minutes.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        try:
            return _forked(code)
        except (OSError, EOFError):  # the server has ended: torch cannot be imported, which the code will say
            pass
    words = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT, check=False)


def _forked(code: str) -> subprocess.CompletedProcess[str]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision", "ndpp_dense.layers"])
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_run, args=(code, folder))
        process.start()
        process.join(_TIMEOUT)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(code, _TIMEOUT)
        out, err = (Path(folder) / name for name in ("out", "err"))
        texts = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
        return subprocess.CompletedProcess(code, process.exitcode, *texts)


def _run(code: str, folder: str) -> None:
    for number, name in ((1, "out"), (2, "err")):
        # Of libraries in C too.
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT), number)
    warnings.simplefilter("ignore")
    exec(code, {"__name__": "__main__"})
