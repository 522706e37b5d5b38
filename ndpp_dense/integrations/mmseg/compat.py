"""What MMSegmentation 1.2 needs before it imports and resumes on a current PyTorch; nothing where it needs nothing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import torch

from ndpp_dense.weights.files import numpy_globals

# Distributions that install the same import name, the first of each being the one that this package asks for.
OWNERS = {
    "mmengine": ("mmengine", "mmengine-lite", "onedl-mmengine"),
    "mmcv": ("mmcv-lite", "mmcv", "mmcv-full", "onedl-mmcv", "onedl-mmcv-lite"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
}
COMPILED_OPS = "mmcv._ext"


def prepare_mmseg() -> None:
    """Makes ``import mmseg.models`` and resuming work. Called when ``ndpp_dense.integrations.mmseg`` is imported.

    Raises:
        ImportError: Two distributions own the same import name; says how to mend it.
    """
    check_distributions()
    import_ops_uncompiled()
    allow_checkpoint_classes()


def check_distributions() -> None:
    """Refuses an environment where one distribution has written over another's files.

    Raises:
        ImportError: Names both, and the command that leaves one.
    """
    for name, owners in OWNERS.items():
        installed = [f"{owner} {version(owner)}" for owner in owners if _is_installed(owner)]
        if len(installed) > 1:
            present = " ".join(entry.split()[0] for entry in installed)
            raise ImportError(
                f"{' and '.join(installed)} both install the module {name!r}, over each other's files. Keep one: "
                f"pip uninstall -y {present} && pip install {installed[0].replace(' ', '==')}"
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


def allow_checkpoint_classes() -> None:
    """Lets ``torch.load(weights_only=True)``, the default since torch 2.6, read the classes of MMEngine's checkpoints.

    Only these classes: loading stays safe against code in a file.
    """
    from mmengine.logging import HistoryBuffer

    # A buffer holds methods of its class, which pickle writes as calls of getattr: allow it for these alone.
    torch.serialization.add_safe_globals([(_history_method, "builtins.getattr"), HistoryBuffer])
    torch.serialization.add_safe_globals(numpy_globals())


def _history_method(cls: type, name: str) -> Any:
    from mmengine.logging import HistoryBuffer

    if cls is not HistoryBuffer or name.startswith("_") or name not in vars(HistoryBuffer):
        raise ValueError(
            f"this checkpoint asks for {cls!r}.{name}, which is not part of a training log: do not trust it"
        )
    return getattr(cls, name)


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


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
