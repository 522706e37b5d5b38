"""Whether all ranks hold the same statistics, at the cost of a hash."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ndpp_dense.layers.base import nd_layers
from ndpp_dense.ops.collectives import world_size

__all__ = ["unequal_layers", "warn_if_unequal"]

_log = logging.getLogger(__name__)
_FACTOR = 0x9E3779B1  # spreads neighbouring positions over the hash


@torch.no_grad()
def unequal_layers(model: nn.Module) -> list[str]:
    """Names of the synchronised ND++ layers whose buffers differ between ranks by as much as a bit.

    A layer's buffers become one number of 64 bits; one exchange of two numbers a layer compares them. Every rank must
    call it.

    Args:
        model: A model with ND++ layers, the same on all ranks.

    Returns:
        The names, equal on all ranks; none without a process group.
    """
    layers = [(name, layer) for name, layer in nd_layers(model) if layer.config.sync]
    if world_size() == 1 or not layers:
        return []
    hashes = torch.stack([_hash(layer.whitening) for _, layer in layers])
    extremes = torch.cat([hashes, ~hashes])  # the largest ~h is that of the smallest h
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    largest, inverted = extremes.chunk(2)
    return [name for (name, _), differs in zip(layers, (largest != ~inverted).tolist(), strict=True) if differs]


def warn_if_unequal(model: nn.Module) -> None:
    """Logs a warning that names layers found by :func:`unequal_layers`. Every rank must call it."""
    names = unequal_layers(model)
    if names:
        _log.warning(
            "The running statistics of %d ND++ layer(s) differ between processes, first %r. They should be equal "
            "to the bit: was a layer run on some processes only, or are their GPUs of different kinds? They are "
            "averaged for evaluating and saving.",
            len(names),
            names[0],
        )


def _hash(whitening: nn.Module) -> Tensor:
    """Sums the bits of all buffers, weighted by position; integers wrap around, so no order matters."""
    parts = []
    for index, buffer in enumerate(whitening.buffers()):
        bits = buffer.detach().contiguous().flatten()
        bits = bits.view(torch.int64 if bits.element_size() == 8 else torch.int32).long()
        places = torch.arange(1, len(bits) + 1, device=bits.device) * _FACTOR + index
        parts.append((bits * (places | 1)).sum())
    return torch.stack(parts).sum()
