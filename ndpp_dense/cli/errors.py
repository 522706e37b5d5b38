"""Errors that a user can put right end in a message instead of a traceback; faults of the program keep theirs."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator

from ndpp_dense.cli.warning_filters import quiet_frameworks
from ndpp_dense.redaction import hide_secrets, shown

__all__ = ["Guard", "readable_errors", "shows_tracebacks", "user_message"]

# What a wrong config, data set, checkpoint or machine raises, with a message of its own.
_USER_ERRORS = (ValueError, FloatingPointError, OSError, ImportError)
# What libraries raise for files and machines, by name, since importing them takes long; and what to do about it.
_DAMAGED = "The file is damaged or of another kind: copy or download it again, or name another."
_OUT_OF_MEMORY = "Take a smaller batch, more micro-batches of it (accumulation), smaller images or mixed precision."
_LIBRARY_ERRORS = {
    "builtins.EOFError": _DAMAGED,
    "builtins.MemoryError": _OUT_OF_MEMORY,
    "PIL.Image.DecompressionBombError": "Shrink the image, or leave it out.",
    "_pickle.UnpicklingError": _DAMAGED,
    "cv2.error": "Look at the file that is being read or written: it is damaged, of another kind, or has no pixels.",
    "lzma.LZMAError": _DAMAGED,
    "safetensors._safetensors_rust.SafetensorError": _DAMAGED,
    "safetensors_rust.SafetensorError": _DAMAGED,
    "tarfile.TarError": _DAMAGED,
    "torch.OutOfMemoryError": _OUT_OF_MEMORY,
    "torch.distributed.DistBackendError": "Another process has failed, or the network has: see what it said.",
    "yaml.error.YAMLError": "Correct the file.",
    "zipfile.BadZipFile": _DAMAGED,
    "zlib.error": _DAMAGED,
}
# What torch raises as RuntimeError where a user can do something about it.
_RUNTIME_ERRORS = {
    r"Error\(s\) in loading state_dict": "The weights are of another model: give the config of their run.",
    r"PytorchStreamReader|invalid header or archive is corrupted|unexpected EOF": _DAMAGED,
    r"at start of device string|Invalid device string": "Choose cpu or cuda.",
    r"No CUDA GPUs are available|Found no NVIDIA driver|not compiled with CUDA|torch\.cuda\.is_available\(\) is False|"
    r"invalid device ordinal|no kernel image is available": "Choose the device cpu; `ndpp doctor` says what is here.",
    r"[Oo]ut of memory|can't allocate memory": _OUT_OF_MEMORY,
    r"DataLoader worker .*(exited unexpectedly|is killed)": "Memory has run out, or /dev/shm is too small: take fewer "
    "loader processes, or 0.",
    r"EADDRINUSE|[Aa]ddress already in use": "Another run has the port: name another with --dist-url.",
    r"NCCL error|ncclUnhandled|ncclSystem": "Another process has failed, or the network has: see what it said.",
    r"No space left on device": "Free some space, or name another folder.",
    r"can't start new thread|Resource temporarily unavailable": "The machine allows no more processes: take fewer.",
}
_SHOWN = 1200  # characters of a message


def shows_tracebacks(asked: bool) -> bool:
    """Return whether the flag or the environment variable NDPP_DEBUG=1 asks for tracebacks."""
    return asked or os.environ.get("NDPP_DEBUG") == "1"


@contextlib.contextmanager
def readable_errors(traceback: bool) -> Iterator[None]:
    """End with a message and exit code 2, instead of a traceback, where the user can put things right.

    Args:
        traceback: let the traceback through after all, as the environment variable NDPP_DEBUG=1 does.

    Raises:
        SystemExit: With code 2, or 130 after an interruption from the keyboard.
    """
    if shows_tracebacks(traceback):
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        rank = f" in process {os.environ['RANK']}" if "RANK" in os.environ else ""
        sys.stderr.write(f"error{rank}: {shown(message)} (--traceback shows where it arose)\n")
        sys.stderr.flush()
        raise SystemExit(2) from None


def user_message(error: BaseException) -> str | None:
    """What to tell a user about an error that they can put right; None for a fault of the program.

    Args:
        error: Decided by its type, and for torch's ``RuntimeError`` by its words. A ``KeyError`` counts where it holds
            a sentence: a bare key says that the program has looked where nothing is.
    """
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    if text.startswith("Caught "):  # a data loader's worker sends its traceback as the message
        text = text.strip().splitlines()[-1]
        name, _, rest = text.partition(": ")
        text = rest if rest and name.isidentifier() else text
    text = text.strip()[:_SHOWN] or type(error).__name__
    if isinstance(error, _USER_ERRORS) or (isinstance(error, KeyError) and " " in text):
        return text
    for kind in type(error).__mro__:
        advice = _LIBRARY_ERRORS.get(f"{kind.__module__}.{kind.__qualname__}")
        if advice:
            return _with_advice(text, advice)
    if isinstance(error, RuntimeError):
        advices = (advice for words, advice in _RUNTIME_ERRORS.items() if re.search(words, text))
        return next((_with_advice(text, advice) for advice in advices), None)
    return None


def _with_advice(text: str, advice: str) -> str:
    line = " ".join(text.split())
    return f"{line[:400].rstrip('.')}. {advice}"


class Guard:
    """Makes the context of a spawned process: errors are readable, warnings of frameworks are kept back.

    Spawned processes get it first of all that they are given. Reading it sets the filters, so that they stand before a
    framework is imported.
    """

    def __init__(self, traceback: bool) -> None:
        self.traceback = traceback
        quiet_frameworks()
        hide_secrets()

    def __reduce__(self) -> tuple[type[Guard], tuple[bool]]:
        return Guard, (self.traceback,)

    def __call__(self) -> contextlib.AbstractContextManager[None]:
        """The context."""
        return readable_errors(self.traceback)
