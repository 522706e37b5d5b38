"""One process or several: who this one is, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.utils.distributed import init_distributed_device_so

from ndpp_dense.ops.collectives import world_size

__all__ = ["from_main", "gather", "is_main", "joined", "rank", "sum_numbers", "world_size"]

T = TypeVar("T")


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Joins the processes that torchrun (or srun) has started; without one this process is alone.

    Args:
        device: ``"cpu"`` (processes talk through gloo) or ``"cuda"`` (through NCCL, a GPU each).

    Yields:
        This process's device.

    Raises:
        ValueError: There is no GPU.
        ConnectionError: The processes did not find each other.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU. Use --device cpu.")
    try:
        place = init_distributed_device_so(device)
    except dist.DistError as error:
        raise ConnectionError(
            f"the processes of this run did not find each other: {error}. Check that all were started, and the "
            "address and port of the first machine (MASTER_ADDR, MASTER_PORT)."
        ) from error
    yield torch.device(place["device"])
    # Only after success: where one process failed, waiting here for the others would hide its error.
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process; 0 when it is alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def gather(value: T) -> list[T]:
    """Every rank's value, in order, on all ranks; anything that pickles."""
    values: list[Any] = [value]
    if world_size() > 1:
        values = [None] * world_size()
        dist.all_gather_object(values, value)
    return values


def from_main(value: T) -> T:
    """The main rank's value on all ranks."""
    return gather(value)[0]


def sum_numbers(*numbers: float, device: torch.device) -> list[float]:
    """Adds numbers up over all ranks, in one exchange."""
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    if world_size() > 1:
        dist.all_reduce(total)
    return total.tolist()
