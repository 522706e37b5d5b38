#!/usr/bin/env python
"""Collect the wheels that tools/gpu_report.py needs on a GPU machine without network: Linux x86-64, Python 3.12.

    python tools/gpu_kit.py

That machine is expected to have PRESENT, below. What else is imported is collected at the versions of constraints.txt,
without following requirements: each is named here, and one that is named nowhere is an error. Archives without wheels
and Detectron2, as ndpp install-detectron2 edits it, are built. OpenCV is the exception: its wheel alone is twice as
large as the kit may be, and nothing that is measured calls it, so gpu_report.py puts a stand-in where it is missing.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from records import ROOT

from ndpp_dense.cli.errors import readable_errors
from ndpp_dense.cli.install_detectron2.install import REQUIRES, VERSION, check_hash, download
from ndpp_dense.cli.install_detectron2.port import edit_tree
from ndpp_dense.cli.install_detectron2.sources import InstallError, unpack
from ndpp_dense.cli.install_detectron2.wheel import write_wheel
from ndpp_dense.cli.output import say

PYTHON = "3.12"
GLIBC = (28, 27, 24, 17)  # pip matches these exactly
PRESENT = (
    *("torch", "torchvision", "timm", "triton", "numpy", "scikit-learn", "matplotlib", "pillow", "pytest"),
    *("pytest-timeout", "hypothesis", "tensorboard", "safetensors", "tabulate", "cloudpickle", "tqdm", "filelock"),
    *("pyyaml", "packaging", "pygments", "typing-extensions", "scipy", "jinja2"),  # the last five come with the others
)
WHEELS = (
    *("addict", "ftfy", "hydra-core", "markdown-it-py", "mdurl", "mmcv-lite", "mmengine", "mmsegmentation"),
    *("omegaconf", "platformdirs", "portalocker", "prettytable", "pycocotools", "regex", "rich", "termcolor"),
    *("wcwidth", "yacs", "yapf"),
)
ARCHIVES = ("antlr4-python3-runtime", "fvcore", "iopath")
STANDS_IN = ("opencv-python",)
LARGEST_KIT, LARGEST_ALL = 28, 60  # MiB: of the kit, and with the files that git tracks


def main(argv: list[str] | None = None) -> None:
    """Collect, check and say how large the kit is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / ".whl", metavar="FOLDER", help="default: .whl")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    args = parser.parse_args(argv)
    with readable_errors(args.traceback), tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        collect(made)
        check(made)
        replace(made, args.output)
    kit, tracked = sizes(args.output)
    number, together = len(list(args.output.glob("*.whl"))), kit + tracked
    say(f"{number} wheels in {args.output.name}: {kit:.1f} MiB; with the files that git tracks {together:.1f} MiB")


def replace(made: Path, output: Path) -> None:
    """Puts wheels in the place of those of before: two versions of a package would stop an installation."""
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("*.whl"):
        old.unlink()
    for wheel in sorted(made.glob("*.whl")):
        shutil.move(wheel, output)


def collect(folder: Path) -> None:
    """Downloads and builds all wheels into a folder.

    Raises:
        InstallError: pip finds or builds one not; what it says.
    """
    chosen = ["--no-deps", "--constraint", str(ROOT / "constraints.txt")]
    platforms = [word for minor in GLIBC for word in ("--platform", f"manylinux_2_{minor}_x86_64")]
    platforms += ["--platform", "manylinux2014_x86_64"]
    target = ["--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp", *platforms]
    _pip("download", *chosen, *target, "--dest", str(folder), *WHEELS)
    _pip("wheel", *chosen, "--wheel-dir", str(folder), *ARCHIVES)
    with tempfile.TemporaryDirectory() as name:
        archive = download(Path(name))
        check_hash(archive)
        (Path(name) / "source").mkdir()
        top = unpack(archive, Path(name) / "source")
        for _ in edit_tree(top / "detectron2"):
            pass
        write_wheel(top / "detectron2", folder, VERSION, REQUIRES)


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise InstallError(f"pip {words[0]} failed:\n  " + "\n  ".join(result.stderr.strip().splitlines()[-4:]))


def check(folder: Path) -> None:
    """Looks whether every requirement is met and the sizes are kept.

    Raises:
        InstallError: A requirement is named neither as present nor as collected, or the kit is too large.
    """
    wheels = sorted(folder.glob("*.whl"))
    names = {canonicalize_name(wheel.name.split("-")[0]) for wheel in wheels}
    unmet = {
        f"{wheel.name.split('-')[0]} needs {wanted}"
        for wheel in wheels
        for wanted in requirements(wheel)
        if canonicalize_name(wanted) not in names | set(PRESENT) | set(STANDS_IN)
    }
    if unmet:
        raise InstallError(f"{'; '.join(sorted(unmet))}: name it in WHEELS or ARCHIVES of tools/gpu_kit.py.")
    kit, tracked = sizes(folder)
    if kit > LARGEST_KIT or kit + tracked > LARGEST_ALL:
        largest = sorted(wheels, key=lambda wheel: -wheel.stat().st_size)[:3]
        raise InstallError(
            f"the kit has {kit:.1f} MiB, with the files that git tracks {kit + tracked:.1f}: at most {LARGEST_KIT} and "
            f"{LARGEST_ALL} can travel. The largest: {', '.join(wheel.name for wheel in largest)}."
        )


def requirements(wheel: Path) -> Iterator[str]:
    """The names of what a wheel requires on the target, extras left out."""
    with zipfile.ZipFile(wheel) as archive:
        path = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(path).decode())
    target = {**default_environment(), "python_version": PYTHON, "python_full_version": f"{PYTHON}.3", "extra": ""}
    target |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    for line in metadata.get_all("Requires-Dist") or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate(target):
            yield wanted.name


def sizes(folder: Path) -> tuple[float, float]:
    """MiB of the wheels of a folder, and of the files that git tracks."""
    kit = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return kit / 2**20, sum(path.stat().st_size for path in paths if path.is_file()) / 2**20


if __name__ == "__main__":
    main()
