"""Who owns MMEngine's import name, and what MMEngine asks of setuptools, which has it no more."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

__all__ = ["check_distributions", "installed", "prepare_mmengine"]

# Distributions that install the same import name, the first of each being the one that this package asks for.
OWNERS = {"mmengine": ("mmengine", "mmengine-lite", "onedl-mmengine")}


def prepare_mmengine() -> None:
    """Refuses an environment with MMEngine twice. Called when ``ndpp_dense.integrations.mmengine`` is imported.

    Raises:
        ImportError: Two distributions own the same import name; says how to mend it.
    """
    check_distributions(OWNERS)
    find_packages_without_setuptools()


def check_distributions(table: Mapping[str, Sequence[str]]) -> None:
    """Refuses an environment where one distribution has written over another's files.

    Args:
        table: By import name the distributions that install it.

    Raises:
        ImportError: Names all that are there twice, and the command that leaves one of each.
    """
    doubled = {name: found for name, owners in table.items() if len(found := installed(owners)) > 1}
    if doubled:
        faults = ", ".join(f"{' and '.join(found)} both install the module {name!r}" for name, found in doubled.items())
        present = " ".join(entry.split()[0] for found in doubled.values() for entry in found)
        kept = " ".join(found[0].replace(" ", "==") for found in doubled.values())
        raise ImportError(
            f"{faults}, over each other's files. Keep one of each: pip uninstall -y {present} && pip install {kept}"
        )


def installed(distributions: Iterable[str]) -> list[str]:
    """Those of some distributions that are there, each as ``"name version"``."""
    found = []
    for name in distributions:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def find_packages_without_setuptools() -> None:
    """Lets MMEngine 0.10.7 find packages (``mmseg::`` in a config) where setuptools has no ``pkg_resources`` any more.

    Its maintained fork asks Python itself, and is left as it is.
    """
    from mmengine import hub, utils
    from mmengine.config import config
    from mmengine.utils import package_utils

    asks = "pkg_resources" in package_utils.get_installed_path.__code__.co_names
    if not asks or importlib.util.find_spec("pkg_resources") is not None:
        return
    for module in (package_utils, utils, config, hub.hub):
        for function in (get_installed_path, is_installed):
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)


def is_installed(package: str) -> bool:
    """Whether a distribution or a module of that name is installed, as MMEngine's function of the same name says."""
    return bool(installed([package])) or importlib.util.find_spec(package) is not None


def get_installed_path(package: str) -> str:
    """The folder of a package, as MMEngine's function of the same name finds it.

    Args:
        package: A distribution or a module, such as ``mmsegmentation`` or ``mmseg``.

    Raises:
        ModuleNotFoundError: There is none.
    """
    try:
        found = distribution(package)
        names = (found.read_text("top_level.txt") or "").split()
    except PackageNotFoundError:
        names = []
    for name in (package, *names):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            return str(Path(spec.origin).parent)
    raise ModuleNotFoundError(f"{package} is not installed: a config or a hub asks for it. pip install {package}")
