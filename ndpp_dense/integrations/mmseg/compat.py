"""What MMSegmentation needs before it imports without compiled ops; nothing where it needs nothing."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ndpp_dense.integrations.mmengine import compat as mmengine_compat
from ndpp_dense.integrations.mmengine.compat import check_distributions, installed

__all__ = ["import_ops_uncompiled", "mixture", "prepare_mmseg"]

# Distributions that install the same import name, the first of each being the one that this package asks for.
OWNERS = {
    "mmcv": ("mmcv-lite", "mmcv", "mmcv-full", "onedl-mmcv", "onedl-mmcv-lite"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
}
FORK = "onedl-"  # what the maintained forks' distributions begin with
COMPILED_OPS = "mmcv._ext"


def prepare_mmseg() -> None:
    """Makes ``import mmseg.models`` work. Called when ``ndpp_dense.integrations.mmseg`` is imported.

    Raises:
        ImportError: Two distributions own the same import name, or MMSegmentation does not take the mmcv that is
            there; says how to mend it.
    """
    check_distributions({**mmengine_compat.OWNERS, **OWNERS})
    _check_mmcv()
    import_ops_uncompiled()


def mixture() -> str:
    """Distributions of OpenMMLab's and of the maintained forks side by side, in words; empty where there is one kind.

    They may work together; they are tested apart.
    """
    table = {**mmengine_compat.OWNERS, **OWNERS}
    found = [entry for owners in table.values() for entry in installed(owners)]
    forks = [entry for entry in found if entry.startswith(FORK)]
    others = [entry for entry in found if entry not in forks]
    return f"mixed: {', '.join(forks)} with {', '.join(others)}, not tested together" if forks and others else ""


def _check_mmcv() -> None:
    """MMSegmentation 1 refuses an mmcv of 2.2 or later by a bare assertion; its fork takes any."""
    own, cv = installed(OWNERS["mmseg"][:1]), installed(OWNERS["mmcv"])
    if own and cv and tuple(int(part) for part in re.findall(r"\d+", cv[0].split()[1])[:2]) >= (2, 2):
        name = cv[0].split()[0]
        raise ImportError(
            f"{own[0]} takes an mmcv before 2.2.0, and {cv[0]} is installed: pip uninstall -y {name} && pip install "
            "mmcv-lite==2.1.0. Or take the maintained forks: pip uninstall -y mmsegmentation mmengine mmcv mmcv-lite "
            "&& pip install 'ndpp-dense[onedl]'"
        )


def import_ops_uncompiled() -> None:
    """Imports ``mmcv.ops``, which MMSegmentation does everywhere, where mmcv was installed without compiled ops.

    Compiled functions are looked up while it is imported: a placeholder answers for that time. It is taken out again,
    since MMEngine asks for the module to know whether there are compiled ops. Calling one raises NotImplementedError.
    """
    if "mmcv.ops" in sys.modules or importlib.util.find_spec(COMPILED_OPS) is not None:
        return
    sys.modules[COMPILED_OPS] = _NoCompiledOps(COMPILED_OPS)
    try:
        importlib.import_module("mmcv.ops")
    finally:
        del sys.modules[COMPILED_OPS]


class _NoCompiledOps(ModuleType):
    """Stands where compiled functions would be: every name is there, none can be called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError(
                f"mmcv's compiled operation {name!r} is not installed. Install an mmcv with compiled ops (build it; "
                "before 2.2.0 for mmsegmentation 1), or choose a model that does not need it."
            )

        return missing
