"""True float32 arithmetic for statistics, whatever the surrounding autocast and TF32 settings are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

__all__ = ["autocasts", "full_precision", "statistics_dtype", "without_autocast"]


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Data type in which statistics of ``x`` are accumulated: float64 for float64, float32 for everything else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device; on ``meta`` torch knows none."""
    # The question whether a device has one is nothing that compilers of torch 2.11 know.
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off where it is on."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Disables autocast and, on CUDA, TF32 matrix products inside the block.

    Covariances need it: in bfloat16 they come out asymmetric, in float16 their sums overflow, and the inverse square
    root of a matrix rounded to TF32 is dominated by its smallest, wrongest eigenvalues.

    Args:
        device: Device on which the block computes.
    """
    with without_autocast(device):
        if device.type != "cuda":
            yield
            return
        matmul, (name, before, off) = torch.backends.cuda.matmul, _tf32_setting()
        if before == off:
            yield
            return
        setattr(matmul, name, off)
        try:
            yield
        finally:
            setattr(matmul, name, before)


def _tf32_setting() -> tuple[str, bool | str, bool | str]:
    """Name of the setting that is in use, its value, and the value that means true float32."""
    matmul = torch.backends.cuda.matmul
    try:
        return "allow_tf32", matmul.allow_tf32, False
    except RuntimeError:  # torch refuses the old name once TF32 was allowed under the new one
        return "fp32_precision", matmul.fp32_precision, "ieee"
