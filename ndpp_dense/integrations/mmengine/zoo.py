"""The model zoo in MMEngine: ``ndpp://NAME`` as a checkpoint, and a row's overrides as its configs have them."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from mmengine.runner import CheckpointLoader

from ndpp_dense.zoo.index import SCHEME
from ndpp_dense.zoo.rows import ZooModel
from ndpp_dense.zoo.weights import load_checkpoint

__all__ = ["load_from_zoo", "read_words", "zoo_options"]


def load_from_zoo(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Weights of the model zoo as MMEngine has checkpoints.

    Args:
        filename: ``ndpp://NAME``.
        map_location: Device that the weights are moved to; None leaves them on the CPU.
    """
    checkpoint = load_checkpoint(filename)
    device = map_location if isinstance(map_location, str) else None
    weights = {name: value.to(device) for name, value in checkpoint.weights.items()}
    return {"state_dict": weights, "meta": {"dataset_meta": {"classes": checkpoint.model.classes}}}


CheckpointLoader.register_scheme(SCHEME, load_from_zoo, force=True)


def zoo_options(model: ZooModel) -> dict[str, Any]:
    """Overrides of a row as MMEngine has them, by key."""
    return read_words(model.overrides)


def read_words(words: Iterable[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words by key; values that are no Python literals stay texts."""
    options = {}
    for word in words:
        key, _, value = word.partition("=")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options
