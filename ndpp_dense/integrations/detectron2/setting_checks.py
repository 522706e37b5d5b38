"""Values of a configuration that have the right type and make no sense: found before they stop a run midway."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_HEADS_REGISTRY

from ndpp_dense.integrations.detectron2.class_checks import class_faults
from ndpp_dense.integrations.detectron2.config import read_options
from ndpp_dense.integrations.detectron2.setting_ranges import RANGES
from ndpp_dense.training.ranges import range_faults

__all__ = ["check_device_and_classes", "check_settings", "check_training_sets", "unusual_settings"]

_CHOICES = {
    "INPUT.FORMAT": ("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("none", "horizontal", "vertical"),
}
_REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
}
_DEVICES = ("cpu", "cuda")


def check_settings(cfg: CfgNode) -> None:
    """Looks at numbers and choices.

    Raises:
        ValueError: With every value that cannot be, and what it may be.
    """
    _report([*_number_faults(cfg), *_choice_faults(cfg), *_whitening_faults(cfg)])


def check_device_and_classes(cfg: CfgNode) -> None:
    """Looks at what this machine and the data sets, once they are registered, have to fit.

    Raises:
        ValueError: Torch has no such device here, or a data set has other categories than the model.
    """
    _report([*_device_faults(cfg.MODEL.DEVICE), *class_faults(cfg)])


def check_training_sets(cfg: CfgNode) -> None:
    """Refuses to train on nothing.

    Raises:
        ValueError: ``DATASETS.TRAIN`` is empty.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError(
            "DATASETS.TRAIN is empty: name a set with --dataset NAME_train=JSON:IMAGES, or one that is registered with "
            "DATASETS.TRAIN \"('coco_2017_train',)\"; --eval-only needs none."
        )


def unusual_settings(cfg: CfgNode) -> list[str]:
    """A line for each setting that has no effect in a training, and is not wrong."""
    beyond = [step for step in cfg.SOLVER.STEPS if step >= cfg.SOLVER.MAX_ITER]
    if not beyond or "MultiStep" not in cfg.SOLVER.LR_SCHEDULER_NAME:
        return []
    left = len(cfg.SOLVER.STEPS) - len(beyond)
    effect = (
        f"the learning rate is lowered {left} times in place of {len(cfg.SOLVER.STEPS)}"
        if left
        else ("the learning rate is never lowered")
    )
    return [
        f"warning: SOLVER.STEPS {cfg.SOLVER.STEPS}: {', '.join(map(str, beyond))} are not reached by SOLVER.MAX_ITER "
        f"{cfg.SOLVER.MAX_ITER}, so {effect}. Give steps below it, such as SOLVER.STEPS "
        f'"({cfg.SOLVER.MAX_ITER * 3 // 4},)", or () for none.'
    ]


def _report(faults: list[str]) -> None:
    if faults:
        raise ValueError(f"the configuration cannot be used: {'; '.join(faults)}.")


def _number_faults(cfg: CfgNode) -> Iterator[str]:
    for key, wanted in RANGES.items():
        yield from range_faults(key, _value(cfg, key), wanted)
    # Shares of the image, where these kinds are chosen.
    if cfg.INPUT.CROP.TYPE.startswith("relative") and not all(0 < share <= 1 for share in cfg.INPUT.CROP.SIZE):
        yield f"INPUT.CROP.SIZE is {cfg.INPUT.CROP.SIZE}, with {cfg.INPUT.CROP.TYPE} it must be shares from 0 to 1"


def _whitening_faults(cfg: CfgNode) -> Iterator[str]:
    if cfg.MODEL.META_ARCHITECTURE == "NDPPModel" and cfg.SOLVER.IMS_PER_BATCH >= 1:
        try:
            read_options(cfg)
        except ValueError as error:
            yield f"MODEL.NDPP: {' '.join(str(error).split()).removesuffix('.')}"


def _choice_faults(cfg: CfgNode) -> Iterator[str]:
    registered = {key: tuple(name for name, _ in registry) for key, registry in _REGISTRIES.items()}
    for key, choices in {**_CHOICES, **registered}.items():
        if _value(cfg, key) not in choices:
            yield f"{key} is {_value(cfg, key)!r}, choose from {', '.join(choices)}"


def _device_faults(name: str) -> Iterator[str]:
    kind, _, number = name.partition(":")
    if kind not in _DEVICES or (number and not number.isdigit()):
        yield f"MODEL.DEVICE is {name!r}, choose from {', '.join(_DEVICES)}"
    elif kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        yield f"MODEL.DEVICE is {name!r} and torch sees {torch.cuda.device_count()} GPU(s), choose --device cpu"


def _value(cfg: CfgNode, key: str) -> Any:
    """The value of a key; None where this release of Detectron2 has no such key."""
    return reduce(lambda node, part: node.get(part) if node is not None else None, key.split("."), cfg)
