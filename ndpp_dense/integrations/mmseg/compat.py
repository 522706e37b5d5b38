"""What MMSegmentation 1.2 needs before it imports on a current PyTorch; nothing where it needs nothing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ndpp_dense.integrations.mmengine.compat import check_distributions

__all__ = ["import_ops_uncompiled", "prepare_mmseg"]

# Distributions that install the same import name, the first of each being the one that this package asks for.
OWNERS = {
    "mmcv": ("mmcv-lite", "mmcv", "mmcv-full", "onedl-mmcv", "onedl-mmcv-lite"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
}
COMPILED_OPS = "mmcv._ext"


def prepare_mmseg() -> None:
    """Makes ``import mmseg.models`` work. Called when ``ndpp_dense.integrations.mmseg`` is imported.

    Raises:
        ImportError: Two distributions own the same import name; says how to mend it.
    """
    check_distributions(OWNERS)
    import_ops_uncompiled()


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
                f"mmcv's compiled operation {name!r} is not installed. Install an mmcv < 2.2.0 with compiled ops "
                "(pip uninstall mmcv-lite, then build mmcv), or choose a model that does not need it."
            )

        return missing
