"""Which warnings are kept back: of frameworks written for older releases, harmless, and nothing a user can change."""

from __future__ import annotations

import warnings

__all__ = ["quiet_frameworks"]

_PACKAGES = ("detectron2", "fvcore", "iopath", "mmengine", "mmcv", "mmseg", "timm")
_MESSAGES = (
    "`torch.jit.script` is deprecated",
    "torch.meshgrid",
    "The given NumPy array is not writable",
    "torch.utils.checkpoint: the use_reentrant",
)


def quiet_frameworks() -> None:
    """Filters them in this process, from now on."""
    for package in _PACKAGES:
        warnings.filterwarnings("ignore", module=f"{package}.*")
    for message in _MESSAGES:
        warnings.filterwarnings("ignore", message=message)
