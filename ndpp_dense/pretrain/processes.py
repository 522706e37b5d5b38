"""One process or several: who this one is, and what all of them have in common."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ndpp_dense.ops.collectives import world_size

__all__ = ["from_main", "gather", "is_main", "own_device", "rank", "sum_numbers", "world_size"]

T = TypeVar("T")


def own_device(kind: str) -> torch.device:
    """The device of this process: ``"cpu"``, or with ``"cuda"`` the GPU that launching has chosen for it.

    Raises:
        ValueError: There is no GPU.
    """
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU. Use --device cpu.")
    return torch.device("cuda", torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


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
