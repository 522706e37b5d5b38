"""Backbones for perceptual distances by name, with weights from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ndpp_dense.robustness.perceptual.stages import IMAGENET_MEAN, IMAGENET_STD, StageMaps

__all__ = ["PRETRAINED", "open_stages"]

PRETRAINED = "pretrained"  # in place of a file: the weights that timm publishes, downloaded
_CLASSIFIERS = ("fc.", "head.", "classifier.", "pre_logits.", "head_fc.")
_NAME_IT = "Name the backbone, or the config, that they were trained with."


def open_stages(name: str, weights: str | Path | None = None) -> StageMaps:
    """Builds a backbone and wraps it.

    Args:
        name: Of ``list_backbones()``, of a timm model, or of a pretraining config, which may name a conversion to ND++.
        weights: File of weights or checkpoint of ``ndpp pretrain``, whose classifier is left out;
            ``"pretrained"`` downloads timm's; None leaves random weights.

    Raises:
        FileNotFoundError: There is no such name or file.
        ValueError: The weights are not those of this backbone.
        ModuleNotFoundError: timm is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        message = "Backbones by name need timm, which is not installed: install ndpp-dense[pretrain]."
        raise ModuleNotFoundError(message, name="timm") from error
    if weights == PRETRAINED:
        if not timm.is_model(name):
            raise ValueError(f"{name!r} is no model of timm's, which alone has published weights: name a file.")
        model: Any = timm.create_model(name, pretrained=True, num_classes=0)
        return StageMaps(model, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    network = _network(name)
    if weights is not None:
        _load(network, Path(weights), name)
    return StageMaps(network, IMAGENET_MEAN, IMAGENET_STD)


def _network(name: str) -> nn.Module:
    import timm

    from ndpp_dense.backbones import list_backbones
    from ndpp_dense.pretrain.config import PretrainConfig
    from ndpp_dense.pretrain.config_loading import load_config
    from ndpp_dense.pretrain.network import build_network

    known = name in list_backbones() or timm.is_model(name)
    config = PretrainConfig(name=name) if known else load_config(name, [])[0]
    return build_network(replace(config, weights=""), num_classes=0)


def _load(network: nn.Module, path: Path, name: str) -> None:
    """Loads every weight but the classifier's."""
    from ndpp_dense.weights.files import read_weights
    from ndpp_dense.weights.formats import unwrapped

    found = unwrapped(read_weights(path).entries)
    try:
        missing, left = network.load_state_dict(found, strict=False)
    except RuntimeError as error:  # of other shapes
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"weights: {path} does not fit {name}: {reason}. {_NAME_IT}") from error
    left = [key for key in left if not key.startswith(_CLASSIFIERS)]
    if missing or left:
        raise ValueError(
            f"weights: {path} does not fit {name}: {len(missing)} missing ({', '.join(missing[:3])}), {len(left)} left "
            f"over ({', '.join(left[:3])}). {_NAME_IT}"
        )
