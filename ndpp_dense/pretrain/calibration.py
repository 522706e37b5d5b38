"""A classifier that starts as ND++ with the function of trained weights (``calibrate``)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ndpp_dense.conversion.options import read_options
from ndpp_dense.ops.collectives import world_size
from ndpp_dense.pretrain.config import TASK, PretrainConfig
from ndpp_dense.pretrain.network import build_network, load_weights, read_entries, to_device
from ndpp_dense.pretrain.processes import is_main
from ndpp_dense.pretrain.stream import Batch
from ndpp_dense.redaction import redacted
from ndpp_dense.training.prepare import NORM_RULES, note_norm_decisions, prepare_from_trained, refuse_weights, told
from ndpp_dense.weights.files import read_checkpoint
from ndpp_dense.weights.match import whitened_layers

__all__ = ["build_to_start"]

_SEED = 2_000_003  # of the images on which a network is calibrated
_log = logging.getLogger(__name__)


def build_to_start(
    config: PretrainConfig,
    num_classes: int,
    device: torch.device,
    batches: Callable[[int], Iterator[Batch]],
    newest: Path | None,
) -> nn.Module:
    """Builds the network of a run, and calibrates it where ``config.calibrate`` asks for it.

    Weights of a network that is ND++ already, a checkpoint to be resumed among them, are not calibrated again.

    Args:
        config: Settings.
        num_classes: Outputs of the classifier; where the weights have another number, it starts anew.
        device: Where to train.
        batches: Training batches from a seed; drawn from only to calibrate.
        newest: Checkpoint from which the run will go on, if any.

    Returns:
        The network, on its device.

    Raises:
        FileNotFoundError: ``weights`` names no file.
        ValueError: The weights do not fit, or cannot be calibrated.
    """
    if not config.calibrate:
        return to_device(build_network(config, num_classes), config, device)
    held = _held_by(config, newest)
    if held is not None:
        ndpp = {**(config.ndpp or {}), "rules": {**((config.ndpp or {}).get("rules") or {}), **held}}
        weights = "" if newest else config.weights
        network = build_network(replace(config, ndpp=ndpp, weights=weights, calibrate=False), num_classes)
        note_norm_decisions(network, held)
        return to_device(network, config, device)
    network = build_network(replace(config, ndpp=None, weights="", calibrate=False, trainable=""), num_classes)
    classifier = next(name for name, _ in reversed(list(network.named_modules())) if name)
    fresh = f"{config.trainable or classifier}*"
    before = {name: value.clone() for name, value in network.state_dict().items() if name.startswith(classifier)}
    load_weights(network, config.weights, fresh)
    refuse_weights(network, (), redacted(config.weights))
    state = network.state_dict()
    anew = {name.rpartition(".")[0] for name, value in before.items() if value.equal(state[name])}
    network = to_device(network, config, device).eval()
    _calibrate(network, config, list(islice(batches(_SEED), config.calibrate_batches)), anew)
    return network.train()


def _held_by(config: PretrainConfig, newest: Path | None) -> Mapping[str, bool] | None:
    """Decisions on norms of weights that are ND++ already (none from older files); None where they are plain."""
    if newest is not None:
        return read_checkpoint(newest).get(NORM_RULES) or {}
    if not whitened_layers(read_entries(config.weights)):
        return None
    _log.info("%s is of a network with ND++ already: nothing is calibrated.", redacted(config.weights))
    return {}


def _calibrate(network: nn.Module, config: PretrainConfig, batches: list[Batch], untrained: set[str]) -> None:
    start = time.perf_counter()
    # Two passes of one batch prove that the norms can go, one of all takes the statistics.
    with tqdm(total=len(batches) + 2, desc="Calibrating ND++", unit="batch", disable=not is_main()) as bar:

        def forward(model: nn.Module, batch: Batch) -> Any:
            bar.update(bar.n < bar.total)  # conversion may run the model too
            return model(batch[0])

        report = prepare_from_trained(
            network,
            read_options(config.ndpp, TASK),
            batches,
            forward=forward,
            untrained=untrained,
            batch_size=config.batch_size,
        )
    images = sum(len(labels) for _, labels in batches) * world_size()
    _log.info("%s", told(report, untrained, images, time.perf_counter() - start))
