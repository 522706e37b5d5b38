"""A detector that starts as ND++ with the function of trained weights (``MODEL.NDPP.CALIBRATE``)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from tqdm import tqdm

from ndpp_dense.calibration import training_paths
from ndpp_dense.integrations.detectron2.checkpoint import NDCheckpointer
from ndpp_dense.integrations.detectron2.config import read_options
from ndpp_dense.integrations.detectron2.loader import TrainData
from ndpp_dense.integrations.detectron2.timm_backbone import TIMM_BUILDERS
from ndpp_dense.redaction import redacted
from ndpp_dense.training.prepare import NORM_RULES, note_norm_decisions, prepare_from_trained, refuse_weights, told
from ndpp_dense.training.rng import isolated_rng
from ndpp_dense.weights.match import whitened_layers

__all__ = ["build_to_start"]

_SEED = 2_000_003  # of the images and of the proposals that are drawn while a model is calibrated
_log = logging.getLogger(__name__)


def build_to_start(cfg: CfgNode, data: Callable[[], TrainData], resume: bool) -> tuple[nn.Module, bool]:
    """Builds the model of a run, and calibrates it where ``MODEL.NDPP.CALIBRATE`` asks for it.

    Weights of a network that is ND++ already, a checkpoint to be resumed among them, are not calibrated again: the
    model is built to fit them.

    Args:
        cfg: Of the run.
        data: Gives the training images; called only to calibrate.
        resume: Whether the newest checkpoint of the output folder, if there is one, will take the place of the weights.

    Returns:
        The model, and whether it has its weights; else ``MODEL.WEIGHTS`` is still to be loaded.

    Raises:
        ValueError: There is nothing to start from, or it cannot be calibrated.
    """
    if not cfg.MODEL.NDPP.CALIBRATE:
        return build_model(cfg), False
    newest = NDCheckpointer(nn.Module(), cfg.OUTPUT_DIR).newest() if resume else None
    _check(cfg, needs_weights=newest is None)
    source = str(newest or cfg.MODEL.WEIGHTS)
    held = _held_by(source) if source else None
    if held is not None:
        if newest is None:
            _log.info("%s is of a network with ND++ already: nothing is calibrated.", redacted(cfg.MODEL.WEIGHTS))
        model = build_model(_with_rules(cfg, held))
        note_norm_decisions(model, held)
        return model, False
    if not cfg.DATASETS.TRAIN:
        raise ValueError(
            "MODEL.NDPP.CALIBRATE (--calibrate) takes its statistics from training images: name a set with --dataset "
            "NAME_train=JSON:IMAGES."
        )
    model = META_ARCH_REGISTRY.get(cfg.MODEL.NDPP.META_ARCHITECTURE)(cfg).to(torch.device(cfg.MODEL.DEVICE))
    untrained = _load(model, cfg)
    _calibrate(model, cfg, data(), untrained)
    return model, True


def _check(cfg: CfgNode, needs_weights: bool) -> None:
    if cfg.MODEL.META_ARCHITECTURE != "NDPPModel":
        raise ValueError(
            f"MODEL.NDPP.CALIBRATE (--calibrate) is for networks with ND++, and MODEL.META_ARCHITECTURE is "
            f"{cfg.MODEL.META_ARCHITECTURE!r}: choose a config such as mask_rcnn_ndpp, or leave it out."
        )
    if needs_weights and not cfg.MODEL.WEIGHTS and not _of_timm(cfg):
        raise ValueError(
            "MODEL.NDPP.CALIBRATE (--calibrate) starts from trained weights, and MODEL.WEIGHTS is empty: give some "
            "with --weights FILE (MODEL.TIMM.WEIGHTS for a backbone of timm's), or leave it out to train from scratch."
        )


def _held_by(path: str) -> Mapping[str, bool] | None:
    """Decisions on norms of weights that are ND++ already (none from older files); None where they are plain."""
    read = NDCheckpointer(nn.Module()).read(path)
    return read.get(NORM_RULES) or {} if whitened_layers(read["model"]) else None


def _with_rules(cfg: CfgNode, rules: Mapping[str, bool]) -> CfgNode:
    changed = cfg.clone()
    changed.defrost()
    changed.MODEL.NDPP.RULES.update(rules)
    changed.freeze()
    return changed


def _load(model: nn.Module, cfg: CfgNode) -> set[str]:
    """Loads ``MODEL.WEIGHTS``; returns the names of the layers that it gave nothing for."""
    unmatched = list(model.state_dict())
    if cfg.MODEL.WEIGHTS:
        checkpointer = NDCheckpointer(model)
        checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[])
        unmatched = checkpointer.unmatched
        refuse_weights(model, unmatched, redacted(cfg.MODEL.WEIGHTS))
    loaded = [f"{name}." for name, module in model.named_modules() if getattr(module, "pretrained", False) is True]
    return {name.rpartition(".")[0] for name in unmatched if not name.startswith(tuple(loaded))}


def _of_timm(cfg: CfgNode) -> bool:
    """Whether the backbone is built with trained weights."""
    return cfg.MODEL.BACKBONE.NAME in TIMM_BUILDERS and bool(cfg.MODEL.TIMM.WEIGHTS)


def _calibrate(model: nn.Module, cfg: CfgNode, data: TrainData, untrained: set[str]) -> None:
    count, start = cfg.MODEL.NDPP.CALIBRATE_BATCHES, time.perf_counter()
    batches = list(islice(data.batches(_SEED, num_workers=0), count))
    model.eval()
    # Two passes of one batch prove that the norms can go, one of all takes the statistics.
    with tqdm(total=count + 2, desc="Calibrating ND++", unit="batch", disable=not comm.is_main_process()) as bar:

        def forward(model: nn.Module, batch: list[dict]) -> Any:
            with isolated_rng(_SEED, cuda=True), EventStorage(0), training_paths(model):
                outputs = model(batch)
            bar.update(bar.n < bar.total)  # conversion may run the model too
            return outputs

        report = prepare_from_trained(model, read_options(cfg), batches, forward=forward, untrained=untrained)
    model.train()
    _log.info("ND++ conversion:\n%s", report)
    images = sum(map(len, batches)) * comm.get_world_size()
    _log.info("%s", told(report, untrained, images, time.perf_counter() - start))
