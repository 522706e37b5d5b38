"""Synchronised batch norm as it runs among several GPUs, in one process: torch's own takes the plain path there."""

import os
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as _Synchronise

from bench.case import Settings


class AloneSyncBatchNorm(nn.SyncBatchNorm):
    """torch's ``SyncBatchNorm`` that goes the way of several processes in a group of one: its kernels, its collectives.

    For training; in evaluation both are the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps ``(N, C, ...)`` to the same shape."""
        if not self.training:
            return super().forward(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        group = dist.group.WORLD
        norm = (self.weight, self.bias, self.running_mean, self.running_var, self.eps, self.momentum)
        return cast("Tensor", _Synchronise.apply(input, *norm, group, 1))


def synchronised_alone(model: nn.Module, settings: Settings) -> nn.Module:
    """Lets the synchronised batch norms of a model synchronise with nobody; CPUs, which they refuse, change nothing.

    Raises:
        RuntimeError: NCCL does not start.
    """
    if settings.device == "cuda":
        _join_a_group_of_one()
        for module in model.modules():
            if type(module) is nn.SyncBatchNorm:
                module.__class__ = AloneSyncBatchNorm
    return model


def _join_a_group_of_one() -> None:
    if not dist.is_initialized():
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")  # a machine may have no other
        dist.init_process_group(
            "nccl",
            store=dist.HashStore(),  # pyright: ignore[reportPrivateImportUsage]
            rank=0,
            world_size=1,
            device_id=torch.device("cuda", torch.cuda.current_device()),
        )
