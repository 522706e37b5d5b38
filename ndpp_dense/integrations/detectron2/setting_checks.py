"""Values of a configuration that have the right type and make no sense: found before they stop a run midway."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_HEADS_REGISTRY

__all__ = ["check_device_and_classes", "check_settings", "check_training_sets"]

_AT_LEAST_1 = ("SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.LOG_PERIOD")
_AT_LEAST_1 += ("SOLVER.ACCUMULATION_STEPS", "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE")
_AT_LEAST_1 += ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST")
_NOT_NEGATIVE = ("SOLVER.BASE_LR", "SOLVER.MOMENTUM", "SOLVER.WEIGHT_DECAY", "SOLVER.GAMMA", "SOLVER.WARMUP_ITERS")
_NOT_NEGATIVE += ("SOLVER.WARMUP_FACTOR", "SOLVER.STEPS", "DATALOADER.NUM_WORKERS", "INPUT.MIN_SIZE_TEST")
_NOT_NEGATIVE += ("MODEL.BACKBONE.FREEZE_AT", "TEST.DETECTIONS_PER_IMAGE", "TEST.STATS_BATCHES")
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
_WITH_ROI_HEADS = ("GeneralizedRCNN", "NDPPModel")


def check_settings(cfg: CfgNode) -> None:
    """Looks at numbers and choices.

    Raises:
        ValueError: With every value that cannot be, and what it may be.
    """
    _report([*_number_faults(cfg), *_choice_faults(cfg)])


def check_device_and_classes(cfg: CfgNode) -> None:
    """Looks at what this machine and the data sets, once they are registered, have to fit.

    Raises:
        ValueError: Torch has no such device here, or a data set has more categories than the model.
    """
    _report([*_device_faults(cfg.MODEL.DEVICE), *_class_faults(cfg)])


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


def _report(faults: list[str]) -> None:
    if faults:
        raise ValueError(f"the configuration cannot be used: {'; '.join(faults)}.")


def _number_faults(cfg: CfgNode) -> Iterator[str]:
    rules: list[tuple[tuple[str, ...], str, Callable[[Any], bool]]] = [
        (_AT_LEAST_1, "at least 1", lambda value: value >= 1),
        (_NOT_NEGATIVE, "0 or more, and finite", lambda value: 0 <= value < math.inf),
    ]
    for keys, words, fits in rules:
        for key in keys:
            value = _value(cfg, key)
            several = isinstance(value, list | tuple)
            if (several and not value and key != "SOLVER.STEPS") or not all(
                isinstance(number, int | float) and fits(number) for number in (value if several else [value])
            ):
                yield f"{key} is {value}, it must be {words}"


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


def _class_faults(cfg: CfgNode) -> Iterator[str]:
    """More categories in the data than the model can tell apart would be trained as background."""
    known = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if cfg.MODEL.META_ARCHITECTURE not in _WITH_ROI_HEADS or known < 1:
        return
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        names = MetadataCatalog.get(name).get("thing_classes") or []
        if len(names) > known:
            yield f"MODEL.ROI_HEADS.NUM_CLASSES is {known} and data set {name!r} has {len(names)} categories"


def _value(cfg: CfgNode, key: str) -> Any:
    return reduce(CfgNode.__getitem__, key.split("."), cfg)
