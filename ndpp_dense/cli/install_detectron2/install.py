"""Make Detectron2 importable: use the one that is there, or install release 0.6 as pure Python.

A Detectron2 >= 0.6 that can be imported (release, source build, conda-forge) is used as it is and nothing is changed.
Otherwise the source archive of release 0.6 comes from the package registry through pip and its SHA-256 is checked, or
the sources come from a checkout. What Python, NumPy, Pillow, torch and setuptools have changed since is mended, the
compiled ops give way to a placeholder that raises by name, and the result is installed as an ordinary distribution that
``pip uninstall detectron2`` removes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from ndpp_dense.cli.install_detectron2.port import edit_tree
from ndpp_dense.cli.install_detectron2.sources import InstallError, copy_checkout, unpack, version_of
from ndpp_dense.cli.install_detectron2.wheel import write_wheel
from ndpp_dense.cli.output import say

__all__ = ["InstallError", "add_arguments", "check_hash", "download", "find_installed", "install", "run"]

ARCHIVE = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
VERSION = "0.6"
REQUIRES = (
    *("torch", "torchvision", "Pillow", "matplotlib", "pycocotools", "termcolor", "yacs", "tabulate", "cloudpickle"),
    *("tqdm", "tensorboard", "fvcore<0.1.6,>=0.1.5", "iopath>=0.1.7", "omegaconf>=2.1", "hydra-core>=1.1"),
    "packaging",
)
WITHOUT_OPS = "rotated boxes (ROIAlignRotated, nms_rotated), deformable convolution, COCOeval_opt (use_fast_impl=True)"
OWN_BUILD = "or install your own Detectron2 >= 0.6 (from source, or conda-forge), which is then used as it is."
_PROBE = (
    "import importlib.util, json\n"
    "import detectron2, detectron2.data, detectron2.engine, detectron2.evaluation, detectron2.modeling\n"
    "try:\n    import detectron2._C as c; ops = not c.__file__.endswith('.py')\n"
    "except ImportError:\n    ops = False\n"
    # Every source since the release calls itself 0.6; the package tracking is younger.
    "later = ' (later source)' if importlib.util.find_spec('detectron2.tracking') else ''\n"
    "print('FOUND', json.dumps([detectron2.__version__ + later, detectron2.__file__, ops]))\n"
)


def find_installed(python: str = sys.executable) -> tuple[str, str, bool] | None:
    """Look for a Detectron2 that imports.

    Args:
        python: the interpreter to ask.

    Returns:
        Version (with a word where the source is later than the release), location and whether the compiled ops are
        there; ``None`` where there is no Detectron2.

    Raises:
        InstallError: if there is one, but it is older than 0.6 or fails to import.
    """
    probe = subprocess.run([python, "-W", "ignore", "-c", _PROBE], capture_output=True, text=True, check=False)
    found = re.search(r"^FOUND (.*)$", probe.stdout, re.MULTILINE)
    if found is None:
        reason = (probe.stderr.strip().splitlines() or ["no output"])[-1]
        if reason == "ModuleNotFoundError: No module named 'detectron2'":
            return None
        raise InstallError(
            f"Detectron2 is installed but fails to import: {reason}. Install its requirements with "
            "pip install -e '.[detectron2]', or remove it with pip uninstall detectron2; then run this again."
        )
    version, location, ops = json.loads(found[1])
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < (0, 6):
        raise InstallError(f"found Detectron2 {version} at {location}, but 0.6 or newer is needed: uninstall it first.")
    return version, str(Path(location).parent), ops


def download(folder: Path) -> Path:
    """Fetch the source archive of release 0.6 through pip.

    Args:
        folder: where the archive goes.

    Returns:
        The archive's path.

    Raises:
        InstallError: if torch (needed to read the archive's metadata) is missing, or pip gives no archive.
    """
    if importlib.util.find_spec("torch") is None:
        raise InstallError("torch must be installed before Detectron2: run pip install torch, then run this again.")
    options = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options, ARCHIVE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("*.tar.gz"))
    if result.returncode or not archives:
        lines = [line for line in result.stderr.splitlines() if line and not line.startswith("WARNING")]
        raise InstallError(
            f"pip could not download {ARCHIVE}. pip said:\n  " + "\n  ".join(lines[-4:]) + "\nNext: hand over the "
            f"archive with --sdist FILE if you have it, {OWN_BUILD}"
        )
    return archives[0]


def check_hash(archive: Path, expected: str = SHA256) -> None:
    """Compare the archive's SHA-256 with the known one.

    Args:
        archive: a file.
        expected: 64 hexadecimal digits.

    Raises:
        InstallError: if they differ.
    """
    got = hashlib.sha256(archive.read_bytes()).hexdigest()
    if got != expected:
        raise InstallError(
            f"{archive.name} is not the archive this project was tested with: expected SHA-256 {expected}, got {got}. "
            f"Nothing was installed. Next: remove it from pip's cache (pip cache purge) and run this again, {OWN_BUILD}"
        )


def install(top: Path, folder: Path, version: str, verbose: bool) -> None:
    """Edit the sources, pack them as a wheel and let pip install it.

    Args:
        top: the sources' top folder, which holds ``detectron2/``.
        folder: where the wheel goes.
        version: the distribution's version.
        verbose: name each edited file.

    Raises:
        InstallError: if pip refuses the wheel.
    """
    total = Counter[str]()
    for path, counts in edit_tree(top / "detectron2"):
        total += counts
        if verbose:
            say(f"  {path}: " + ", ".join(f"{kind} ({number})" for kind, number in counts.items()))
    for kind, number in total.items():
        say(f"  {kind}: {number}")
    say("  detectron2/_C.py: placeholder for the compiled ops")
    licence = top / "LICENSE"
    wheel = write_wheel(top / "detectron2", folder, version, REQUIRES, licence if licence.is_file() else None)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise InstallError(f"pip could not install the edited Detectron2: {result.stderr.strip()}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--sdist", type=Path, metavar="FILE", help="use this archive of release 0.6, not a download")
    origin.add_argument(
        "--source", type=Path, metavar="FOLDER", help="use the Python files of this checkout of Detectron2 (git clone)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="name each edited file")


def run(args: argparse.Namespace) -> int:
    """Looks, installs, looks again."""
    version = version_of(args.source) if args.source else VERSION
    found = find_installed()
    if found and args.source and _installed_version() != version:
        raise InstallError(
            f"Detectron2 {found[0]} is installed at {found[1]}, and --source is {version}: "
            "run pip uninstall -y detectron2 first, or leave --source out to use what is there."
        )
    if found is None:
        with tempfile.TemporaryDirectory() as name:
            _install_from(args, Path(name), version)
        found = find_installed()
    if found is None:
        raise InstallError("Detectron2 was installed but can't be found: is this pip's own interpreter?")
    say(f"Detectron2 {found[0]} at {found[1]}, compiled ops: {'yes' if found[2] else 'no'}")
    if not found[2]:
        say(f"  not available without compiled ops: {WITHOUT_OPS}")
    return 0


def _install_from(args: argparse.Namespace, folder: Path, version: str) -> None:
    sources = folder / "sources"
    sources.mkdir()
    if args.source:
        say(f"Detectron2: not found; installing {version} from {args.source} as pure Python")
        top = copy_checkout(args.source, sources)
    else:
        say(f"Detectron2: not found; installing release {version} as pure Python")
        archive = args.sdist or download(folder)
        check_hash(archive)
        top = unpack(archive, sources)
    install(top, folder, version, args.verbose)


def _installed_version() -> str | None:
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return None
