"""What MMEngine 0.10 needs before it resumes on a current PyTorch, and a look at who owns an import name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ndpp_dense.weights.files import numpy_globals

__all__ = ["allow_checkpoint_classes", "check_distributions", "prepare_mmengine"]

# Distributions that install the same import name, the first of each being the one that this package asks for.
OWNERS = {"mmengine": ("mmengine", "mmengine-lite", "onedl-mmengine")}


def prepare_mmengine() -> None:
    """Makes resuming work. Called when ``ndpp_dense.integrations.mmengine`` is imported.

    Raises:
        ImportError: Two distributions own the same import name; says how to mend it.
    """
    check_distributions(OWNERS)
    allow_checkpoint_classes()


def check_distributions(table: Mapping[str, Sequence[str]]) -> None:
    """Refuses an environment where one distribution has written over another's files.

    Args:
        table: By import name the distributions that install it.

    Raises:
        ImportError: Names both, and the command that leaves one.
    """
    for name, owners in table.items():
        installed = [f"{owner} {version(owner)}" for owner in owners if _is_installed(owner)]
        if len(installed) > 1:
            present = " ".join(entry.split()[0] for entry in installed)
            raise ImportError(
                f"{' and '.join(installed)} both install the module {name!r}, over each other's files. Keep one: "
                f"pip uninstall -y {present} && pip install {installed[0].replace(' ', '==')}"
            )


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


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
