"""The network of a run: by name, converted to ND++, with the weights it starts from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import timm
import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from ndpp_dense.backbones import create_backbone, list_backbones
from ndpp_dense.conversion.options import read_options
from ndpp_dense.layers.model_statistics import freeze_where_weights_are
from ndpp_dense.ops.collectives import world_size
from ndpp_dense.pretrain.config import TASK, PretrainConfig
from ndpp_dense.training.prepare import prepare
from ndpp_dense.weights.files import read_weights
from ndpp_dense.weights.formats import unwrapped
from ndpp_dense.zoo import SCHEME, load_checkpoint

__all__ = ["build_network", "load_weights", "read_entries", "to_device"]

_log = logging.getLogger(__name__)


def build_network(config: PretrainConfig, num_classes: int) -> nn.Module:
    """Builds the network on the CPU, with random weights from the global generator.

    Args:
        config: Settings; read are ``name``, ``ndpp``, ``batch_size``, ``image_size``, ``weights`` and
            ``trainable``.
        num_classes: Outputs of the classifier.

    Returns:
        The network; after conversion its ``ndpp_report`` says what was done.

    Raises:
        FileNotFoundError: ``weights`` names no file.
        ValueError: Unknown name, settings that do not fit the network, or weights that do not.
        RuntimeError: A converted layer does not run.
    """
    network = _by_name(config.name, num_classes)
    if config.ndpp is not None:
        blank = torch.zeros(1, 3, config.image_size, config.image_size)
        options, size = read_options(config.ndpp, TASK), config.batch_size
        prepare(network, options, batch_size=size, example=lambda model: model(blank))
    if config.weights:
        load_weights(network, config.weights, config.trainable)
    if config.trainable:
        _train_only(network, config.trainable)
    return network


def load_weights(network: nn.Module, path: str | Path, fresh: str = "") -> None:
    """Loads every weight from a file; averaged ones where a checkpoint has both.

    Args:
        network: Where to.
        path: ``.safetensors``, or ``.pth`` with the weights or a checkpoint of a run; or ``ndpp://NAME``.
        fresh: Pattern of names, such as ``"head.*"``, that stay as they are where the file does not have them, or has
            them of another shape.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable or does not fit; names what is missing or left over.
    """
    if str(path).startswith(SCHEME) and not fresh:
        load_checkpoint(str(path), network)
        return
    weights = read_entries(path)
    if fresh:
        weights = _with_fresh(weights, network.state_dict(), fresh)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"weights: {path} does not fit {type(network).__name__}: {reason[:600]}") from error


def read_entries(path: str | Path) -> Mapping[str, torch.Tensor]:
    """Weights by name from a file, or from the model zoo (``ndpp://NAME``).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable.
    """
    if str(path).startswith(SCHEME):
        return load_checkpoint(str(path)).weights
    return unwrapped(read_weights(path).entries)


def _with_fresh(
    weights: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], fresh: str
) -> dict[str, torch.Tensor]:
    """Weights in which what fits the pattern, and does not fit the network, is the network's own."""
    kept = {name: value for name, value in weights.items() if name in state or not fnmatchcase(name, fresh)}
    started = {
        name: own
        for name, own in state.items()
        if fnmatchcase(name, fresh) and (name not in kept or kept[name].shape != own.shape)
    }
    if started:
        _log.info("Not from the weights, but started anew: %s.", ", ".join(started))
    return {**kept, **started}


def _train_only(network: nn.Module, pattern: str) -> None:
    """Lets the parameters that fit a pattern train, and no others."""
    chosen = {name: fnmatchcase(name, pattern) for name, _ in network.named_parameters()}
    if not any(chosen.values()):
        last = list(chosen)[-1]
        raise ValueError(f"trainable = {pattern!r} fits no parameter of the network; its last one is {last!r}.")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(chosen[name])
    freeze_where_weights_are(network)


def to_device(network: nn.Module, config: PretrainConfig, device: torch.device) -> nn.Module:
    """Moves a network to where it runs, in the memory format of the settings, its norms synchronised if they ask so."""
    if config.sync_bn and world_size() > 1 and device.type == "cuda":  # there is none on CPUs
        network = convert_sync_batchnorm(network)
    network = network.to(device)
    return network.to(memory_format=torch.channels_last) if config.channels_last else network  # pyright: ignore


def _by_name(name: str, num_classes: int) -> nn.Module:
    if name not in list_backbones() and timm.is_model(name):
        return timm.create_model(name, num_classes=num_classes)
    return create_backbone(name, num_classes)
