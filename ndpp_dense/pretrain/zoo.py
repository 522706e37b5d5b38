"""Classifiers of the model zoo: built from a row, evaluated on its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ndpp_dense.config_files import packaged_config
from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.config_loading import load_config
from ndpp_dense.pretrain.evaluation import evaluate
from ndpp_dense.pretrain.images import open_images
from ndpp_dense.pretrain.network import build_network
from ndpp_dense.pretrain.stream import ValidationShard, validation_batches
from ndpp_dense.zoo.errors import ZooError
from ndpp_dense.zoo.rows import ZooModel
from ndpp_dense.zoo.weights import load_into

__all__ = ["build_zoo_model", "evaluate_zoo_model", "run_blank"]


def build_zoo_model(model: ZooModel, device: str = "cpu") -> nn.Module:
    """The classifier of a row in evaluation mode, with random weights."""
    return build_network(_config(model), len(model.classes) or 1000).to(device).eval()


def run_blank(network: nn.Module, image: Tensor) -> None:
    """Runs a network of :func:`build_zoo_model` on one image ``(3, H, W)``, for what counts operations."""
    network(image[None])


def evaluate_zoo_model(model: ZooModel, weights: dict[str, Any], data: str | None, output: Path) -> dict[str, float]:
    """Evaluates weights on the validation images of their row.

    Args:
        model: The row.
        weights: State dictionary.
        data: Folder or tar file with ``val/CLASS/IMAGE``.
        output: Unused: nothing is written.

    Returns:
        ``loss``, and ``top1`` and ``top5`` in per cent.
    """
    if data is None:
        raise ZooError(f"{model.name}: name its images, {model.data.split(',')[0]}, to evaluate it.")
    config, device = _config(model), torch.device("cpu")
    _, val = open_images(data, config.num_classes)
    network = build_network(config, len(val.classes))
    load_into(network, weights, model.name)
    return evaluate(network, validation_batches(ValidationShard(val, 0, 1), config, device, 32), config, device)


def _config(model: ZooModel) -> PretrainConfig:
    return load_config(packaged_config(model.config), [*model.overrides, "workers=0"])[0]
