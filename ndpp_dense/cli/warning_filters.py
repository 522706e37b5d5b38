"""Which warnings are kept back: of frameworks written for older releases, harmless, and nothing a user can change."""

from __future__ import annotations

import warnings

from ndpp_dense.integrations.registry import FRAMEWORKS

__all__ = ["quiet_frameworks"]

_MESSAGES = (
    "`torch.jit.script` is deprecated",
    "torch.meshgrid",
    "The given NumPy array is not writable",
    "torch.utils.checkpoint: the use_reentrant",
)


def quiet_frameworks() -> None:
    """Filters them in this process, from now on."""
    for package in (package for record in FRAMEWORKS.values() for package in record.packages):
        warnings.filterwarnings("ignore", module=f"{package}.*")
    for message in _MESSAGES:
        warnings.filterwarnings("ignore", message=message)
