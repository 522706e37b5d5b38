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
    mend_package_search()
    find_distutils()


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


def mend_package_search() -> None:
    """Lets ``mmseg::`` in configs find the package, where MMEngine's own search does not.

    That of 0.10.7 asks ``pkg_resources``, which setuptools has lost in its release 82; that of the maintained fork
    looks for upstream's distributions only.
    """
    from mmengine import hub, utils
    from mmengine.config import config
    from mmengine.utils import package_utils

    asks = "pkg_resources" in package_utils.get_installed_path.__code__.co_names
    if asks and importlib.util.find_spec("pkg_resources") is not None:
        return
    for module in (package_utils, utils, config, hub.hub):
        for function in (get_installed_path, is_installed):
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)


def find_distutils() -> None:
    """Lets MMEngine's runner, whose report of the environment imports ``distutils``, find the copy in setuptools.

    Python has it no more since 3.12. That copy is found by itself only where setuptools' own hook runs: not from a
    folder that ``PYTHONPATH``, a path file or ``pip install --target`` adds.
    """
    if importlib.util.find_spec("distutils") is None and importlib.util.find_spec("setuptools") is not None:
        importlib.import_module("setuptools")


def is_installed(package: str) -> bool:
    """Whether there is such a distribution or module, as MMEngine's function of the same name says."""
    return bool(installed([package])) or _found(package) is not None


def get_installed_path(package: str) -> str:
    """The folder of a package, as MMEngine's function of the same name finds it.

    Args:
        package: A distribution or a module, such as ``mmsegmentation`` or ``mmseg``.

    Raises:
        ModuleNotFoundError: There is none.
    """
    found = _found(package)
    if found is None:
        raise ModuleNotFoundError(f"{package} is not installed: a config or a hub asks for it. pip install {package}")
    return found


def _found(package: str) -> str | None:
    """The folder of the first module that a name may stand for."""
    from mmengine.config.utils import MODULE2PACKAGE  # by module the distribution; a fork's has another name

    try:
        own = (distribution(package).read_text("top_level.txt") or "").split()
    except PackageNotFoundError:
        own = []
    modules = [module for module, name in MODULE2PACKAGE.items() if name == package]
    specs = (importlib.util.find_spec(name) for name in (package, *own, *modules) if name.isidentifier())
    return next((str(Path(spec.origin).parent) for spec in specs if spec and spec.origin), None)
