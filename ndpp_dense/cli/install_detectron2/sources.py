"""Detectron2's sources, from the archive of release 0.6 or from a checkout, laid out as they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from pathlib import Path

__all__ = ["InstallError", "copy_checkout", "unpack", "version_of"]

# What upstream's setup.py installs below detectron2/ from elsewhere.
_PLACES = {
    "configs": "model_zoo/configs",
    "projects/PointRend/point_rend": "projects/point_rend",
    "projects/DeepLab/deeplab": "projects/deeplab",
    "projects/Panoptic-DeepLab/panoptic_deeplab": "projects/panoptic_deeplab",
}
_NOT_COPIED = shutil.ignore_patterns("csrc", "__pycache__", "_C*.so", "_C*.pyd", "_C.py")


class InstallError(ValueError):
    """Something that the person who runs the command has to decide or repair."""


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the archive, and put configs and projects where Detectron2 looks for them.

    Args:
        archive: the source archive.
        folder: an empty folder.

    Returns:
        The archive's top folder, which holds ``detectron2/``.
    """
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and 3.10.12 were the first
        tar.extractall(folder)
    top = next(path for path in sorted(folder.iterdir()) if (path / "detectron2").is_dir())
    _add_places(top, top / "detectron2")
    return top


def copy_checkout(checkout: Path, folder: Path) -> Path:
    """Copy the Python files of a checkout; the checkout stays as it is.

    Args:
        checkout: a clone of Detectron2's repository.
        folder: an empty folder.

    Returns:
        A folder that holds ``detectron2/`` and the licence, as :func:`unpack` makes one.
    """
    top = folder / "checkout"
    # A build leaves a link model_zoo/configs, whose target is copied below.
    shutil.copytree(checkout / "detectron2", top / "detectron2", ignore=_NOT_COPIED, symlinks=True)
    links = [path for path in (top / "detectron2").rglob("*") if path.is_symlink()]
    for link in links:
        link.unlink()
    _add_places(checkout, top / "detectron2")
    if (checkout / "LICENSE").is_file():
        shutil.copyfile(checkout / "LICENSE", top / "LICENSE")
    return top


def version_of(checkout: Path) -> str:
    """The version of a checkout's package, with its commit where git knows it, such as ``0.6+g02b5c4e2``.

    Raises:
        InstallError: if the folder is no checkout of Detectron2, or one that is older than 0.6.
    """
    file = checkout / "detectron2" / "__init__.py"
    found = re.search(r'^__version__ = "([\w.]+)', file.read_text(encoding="utf-8"), re.M) if file.is_file() else None
    if found is None:
        raise InstallError(
            f"--source {checkout} is no checkout of Detectron2: {file} is missing or names no version. "
            "Name the folder that git clone made."
        )
    if tuple(int(part) for part in re.findall(r"\d+", found[1])[:2]) < (0, 6):
        raise InstallError(f"--source {checkout} is Detectron2 {found[1]}, but 0.6 or newer is needed: run git pull.")
    commit = _commit(checkout)
    return f"{found[1]}+{f'g{commit}' if commit else 'source'}"


def _commit(checkout: Path) -> str:
    if shutil.which("git") is None or not (checkout / ".git").exists():
        return ""
    words = ["git", "-C", str(checkout), "rev-parse", "--short=8", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _add_places(top: Path, package: Path) -> None:
    for source, target in _PLACES.items():
        if (top / source).is_dir() and not (package / target).exists():
            shutil.copytree(top / source, package / target, ignore=_NOT_COPIED)
