"""Which checkpoint to resume: the newest that can be read."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from mmengine.logging import print_log

from ndpp_dense.integrations.mmengine.reading import load_from_local

__all__ = ["newest_readable"]

_PERIODIC = re.compile(r"(?:iter|epoch)_(\d+)\.pth")


def newest_readable(folder: str | Path) -> str | None:
    """The last checkpoint of a work dir, or the one before where that is damaged, which is then logged.

    MMEngine writes checkpoints in place: a kill or a full disk leaves half a file, which it would try to resume.

    Args:
        folder: A work dir; it need not exist.

    Returns:
        Its path; None where there is no checkpoint.

    Raises:
        ValueError: There are checkpoints, and none is readable.
    """
    failures: list[str] = []
    for file in _candidates(Path(folder)):
        reason = _fault(file)
        if reason is None:
            if failures:
                message = f"Falling back to the checkpoint before, {file}, because: {' '.join(failures)}"
                print_log(message, logger="current", level=logging.WARNING)
            return str(file)
        failures.append(f"cannot read checkpoint {file} ({_size(file)} bytes): {reason}.")
    if failures:
        raise ValueError(f"no checkpoint in {folder} is readable. {' '.join(failures)} Leave --resume out.")
    return None


def _candidates(folder: Path) -> list[Path]:
    """What ``last_checkpoint`` names, then the others, the furthest first."""
    found = {file: match for file in folder.glob("*.pth") if (match := _PERIODIC.fullmatch(file.name))}
    files = sorted(found, key=lambda file: int(found[file][1]), reverse=True)
    pointer = folder / "last_checkpoint"
    named = folder / Path(pointer.read_text(errors="replace").strip()).name if pointer.is_file() else None
    return sorted(files, key=lambda file: file != named)


def _fault(file: Path) -> str | None:
    try:
        content = load_from_local(str(file))
    except (OSError, ValueError) as error:
        return str(error).split(": ", 1)[-1].split(". ")[0]
    return None if isinstance(content, dict) and "state_dict" in content else "it holds no weights"


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
