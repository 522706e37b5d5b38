"""The mode in which a model is calibrated: the paths of training, with the statistics of evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ndpp_dense.conversion.probe import is_norm
from ndpp_dense.layers.base import NDLayer

__all__ = ["training_paths"]


@contextmanager
def training_paths(model: nn.Module) -> Iterator[None]:
    """Inside the block, modules that are made of others run as in training; norms, dropout and ND++ layers stay.

    Detectors choose by their mode whether they compare proposals with the annotations, which reaches every head, or
    return what they detected, which may be nothing. Modes are restored.

    Args:
        model: In evaluation mode.
    """
    chosen = [module for module in _choosing(model) if not module.training]
    for module in chosen:
        module.training = True
    try:
        yield
    finally:
        for module in chosen:
            module.training = False


def _choosing(module: nn.Module) -> Iterator[nn.Module]:
    children = list(module.children())
    if not children or isinstance(module, NDLayer) or is_norm(module):
        return
    yield module
    for child in children:
        yield from _choosing(child)
