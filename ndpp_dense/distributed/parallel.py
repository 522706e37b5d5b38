"""DistributedDataParallel as ND++ wants it."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["data_parallel"]


def data_parallel(network: nn.Module, device: torch.device, **options: Any) -> DistributedDataParallel:
    """Averages gradients over ranks, and leaves buffers alone: ND++ and synchronised norms keep theirs equal.

    Args:
        network: On ``device``.
        device: This rank's.
        options: Of DistributedDataParallel.
    """
    known = signature(DistributedDataParallel).parameters  # newer releases of torch have another name for it
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, **{name: False}, **options)
