"""A look at who owns MMEngine's import name, before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

__all__ = ["check_distributions", "prepare_mmengine"]

# Distributions that install the same import name, the first of each being the one that this package asks for.
OWNERS = {"mmengine": ("mmengine", "mmengine-lite", "onedl-mmengine")}


def prepare_mmengine() -> None:
    """Refuses an environment with MMEngine twice. Called when ``ndpp_dense.integrations.mmengine`` is imported.

    Raises:
        ImportError: Two distributions own the same import name; says how to mend it.
    """
    check_distributions(OWNERS)


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


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
