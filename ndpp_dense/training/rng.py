"""The random state of a process as plain tensors and numbers, and a way to draw aside from it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

__all__ = ["get_rng_state", "isolated_rng", "set_rng_state"]


def get_rng_state(*, cuda: bool = True) -> dict[str, Any]:
    """Take the state of Python's, NumPy's and PyTorch's global generators.

    Args:
        cuda: include the generator of the current CUDA device, when CUDA is in use. Data loader workers must not.

    Returns:
        A dictionary of numbers, tuples and tensors only, so that it can be saved and read back with
        ``torch.load(..., weights_only=True)``.
    """
    name, keys, position, has_gauss, cached_gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached_gauss),
        "torch": torch.get_rng_state(),
    }
    if cuda and torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what :func:`get_rng_state` took.

    Args:
        state: the dictionary that `get_rng_state` returned. Its CUDA part is ignored where CUDA is absent.
    """
    name, keys, position, has_gauss, cached_gauss = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached_gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextlib.contextmanager
def isolated_rng(*seed: int, cuda: bool = False) -> Iterator[None]:
    """Seed every global generator inside the block and put the former states back after it.

    Args:
        *seed: non-negative integers; equal tuples give equal random numbers.
        cuda: isolate the generator of the current CUDA device too (never in a data loader worker).
    """
    before = get_rng_state(cuda=cuda)
    words = np.random.SeedSequence(seed).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    # Not torch.manual_seed: it would also touch CUDA, which a forked worker must leave alone.
    torch.default_generator.manual_seed(int(words[2]))
    if "cuda" in before:
        torch.cuda.manual_seed(int(words[3]))
    try:
        yield
    finally:
        set_rng_state(before)
