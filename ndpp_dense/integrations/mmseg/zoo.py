"""The model zoo in MMSegmentation: models built from a row, and evaluated on its data."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from ndpp_dense.config_files import packaged_config
from ndpp_dense.integrations.mmengine.setting_checks import read_file
from ndpp_dense.integrations.mmengine.zoo import zoo_options
from ndpp_dense.zoo.rows import ZooModel
from ndpp_dense.zoo.weights import load_into

__all__ = ["build_zoo_model", "evaluate_zoo_model", "run_blank", "zoo_config"]


def zoo_config(model: ZooModel) -> Config:
    """The configuration of a row, without weights and without a look at data sets."""
    config = read_file(packaged_config(model.config))
    config.merge_from_dict(zoo_options(model))
    if config.model.get("backbone", {}).get("init_cfg"):
        config.model.backbone.init_cfg = None
    return config


def build_zoo_model(model: ZooModel, device: str = "cpu") -> nn.Module:
    """The model of a row in evaluation mode, with random weights."""
    config = zoo_config(model)
    init_default_scope(config.get("default_scope", "mmseg"))
    import mmseg.models  # noqa: F401  (registers them)

    return MODELS.build(config.model).to(device).eval()


def run_blank(network: nn.Module, image: Tensor) -> None:
    """Runs a network of :func:`build_zoo_model` on one image ``(3, H, W)``, for what counts operations."""
    network(image[None])


def evaluate_zoo_model(model: ZooModel, weights: dict[str, Any], data: str | None, output: Path) -> dict[str, float]:
    """Evaluates weights on the data of their row.

    Args:
        model: The row.
        weights: State dictionary.
        data: Folder of the data set; None for what the config names by itself.
        output: Folder for what the evaluation writes.

    Returns:
        Figures by name, such as ``mIoU``.
    """
    from ndpp_dense.integrations.mmseg.run_config import build_config

    name = uuid.uuid4().hex  # MMEngine keeps logger and visualizer by name, with the folders that they write to
    options = {**zoo_options(model), "log_level": "WARNING", "experiment_name": name, "visualizer.name": name}
    config = build_config(str(packaged_config(model.config)), work_dir=str(output), dataset=data, options=options)
    runner = Runner.from_cfg(config)
    load_into(runner.model, weights, model.name)
    return {name: float(value) for name, value in runner.test().items()}
