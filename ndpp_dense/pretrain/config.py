"""All settings of a pretraining run, checked together."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Union, get_args, get_origin, get_type_hints

from timm.optim import list_optimizers  # pyright: ignore[reportPrivateImportUsage]

from ndpp_dense.conversion.options import read_options
from ndpp_dense.distributed.compression import check_compression
from ndpp_dense.training.ranges import BATCH, Range

__all__ = ["AMP_DTYPES", "TASK", "PretrainConfig", "field_types"]

TASK = "imagenet"
AMP_DTYPES = ("bfloat16", "float16")
_CHOICES = {
    "schedule": ("cosine", "step"),
    "amp": ("", *AMP_DTYPES),
    "interpolation": ("bilinear", "bicubic", "random"),
}
_AUGMENTATIONS = ("", "rand", "augmix", "original", "originalr", "v0", "v0r", "3a", "3aw")
_COUNT, _COUNT_OR_0, _NOT_NEGATIVE = Range(1, whole=True), Range(0, whole=True), Range(0)
_SHARE, _SHARE_NOT_0, _FRACTION = Range(0, 1), Range(0, 1, above=True), Range(0, 1, below=True)
# What every number may be.
_RANGES = {
    "num_classes": Range(2, whole=True),
    "calibrate_batches": _COUNT,
    "image_size": _COUNT,
    "crop_pct": _SHARE_NOT_0,
    "color_jitter": _NOT_NEGATIVE,
    "erasing": _SHARE,
    "mixup": _NOT_NEGATIVE,
    "cutmix": _NOT_NEGATIVE,
    "smoothing": _FRACTION,
    "workers": _COUNT_OR_0,
    "epochs": _COUNT,
    "batch_size": BATCH,
    "accumulation": _COUNT,
    "lr": Range(0, above=True),
    "momentum": _FRACTION,
    "weight_decay": _NOT_NEGATIVE,
    "warmup_epochs": _COUNT_OR_0,
    "warmup_lr": _NOT_NEGATIVE,
    "min_lr": _NOT_NEGATIVE,
    "decay_epochs": _COUNT,
    "decay_rate": _SHARE_NOT_0,
    "clip_grad": _NOT_NEGATIVE,
    "ema_decay": _FRACTION,
    "seed": Range(0, 2**31, whole=True),
    "eval_every": _COUNT,
    "save_every": _COUNT_OR_0,
    "log_every": _COUNT,
    "stats_batches": _COUNT,
}


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a run; the defaults are ResNet-50's published recipe with batch size 256 and a cosine schedule.

    Attributes:
        name: A name of ``list_backbones()``, or of timm's models.
        num_classes: Checked against the data; None takes what the data has.
        ndpp: How to whiten, see :func:`ndpp_dense.conversion.options.read_options`; None trains the network as it is
            published.
            Unless it names a momentum, that follows the batch size (``WhiteningConfig.for_batch``).
        sync_bn: Batch normalisation over all GPUs.
        weights: Checkpoint to start from (``.pth`` or ``.safetensors``); empty for random weights.
        calibrate: Whether the network takes ``weights`` as it is without ND++, and starts as ND++ with the same
            function, see :func:`ndpp_dense.calibrate_ndpp`. A classifier of another number of classes starts anew.
        calibrate_batches: Training batches for its statistics.
        trainable: Parameters to train, as a pattern of names such as ``"head.*"``; the rest, norms' and ND++ statistics
            included, stays as it is in ``weights``, which need not hold what is trained. Empty trains everything.
        image_size: Pixels a side.
        crop_scale: Smallest and largest share of an image's area that a training crop takes.
        crop_pct: Share of a side that the central crop for evaluation takes, in (0, 1].
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"random"`` (of the two, in training).
        color_jitter: Strength; 0 for none. ``auto_augment`` puts it out of use.
        auto_augment: timm's string, such as ``"rand-m9-mstd0.5"``; empty for none.
        erasing: Probability that a random rectangle of an image is replaced by noise.
        mixup: Alpha of Mixup; 0 for none.
        cutmix: Alpha of CutMix; 0 for none.
        smoothing: Label smoothing.
        workers: Loader processes of every rank; 0 loads in the training process.
        epochs: Length of the run, warm-up included.
        batch_size: Images of an optimizer step, over all ranks and micro-batches.
        accumulation: Micro-batches in which a rank takes its share of the batch.
        optimizer: A name of timm's optimizers: ``"momentum"``, ``"sgd"`` (with Nesterov momentum), ``"adamw"``, ...
        lr: Highest learning rate.
        momentum: Of optimizers that have it.
        weight_decay: Of the weights.
        decay_all: Whether biases and norms decay too.
        schedule: ``"cosine"`` or ``"step"``; both move after every optimizer step.
        warmup_epochs: Epochs in which the learning rate rises to where the schedule is by then.
        warmup_lr: Learning rate at the start of these.
        min_lr: Learning rate at the end of a cosine schedule.
        decay_epochs: Epochs of a step of the step schedule.
        decay_rate: Factor of a step.
        clip_grad: Largest norm of the gradient; 0 for no limit.
        ema_decay: Decay of averaged weights, which are then evaluated beside training; 0 for none. Builds up at first.
        grad_compression: ``"bfloat16"`` halves the bytes of gradients between ranks; empty for full precision.
        amp: Mixed precision in ``"bfloat16"`` or ``"float16"`` (with loss scaling); empty for full precision.
        channels_last: Memory format of images and weights.
        compile: Whether ``torch.compile`` prepares the training step.
        seed: Of weights, order and augmentation.
        eval_every: Epochs between evaluations; the last epoch always has one.
        save_every: Optimizer steps between checkpoints within an epoch; 0 saves at the ends of epochs only.
        log_every: Optimizer steps between records of loss and learning rate.
        stats_batches: Training batches, at most those of an epoch, from which ND++ statistics are estimated anew before
            evaluating and saving, where they follow single batches (``ndpp: {statistics: batch}``, or large batches).
    """

    name: str = "resnet50"
    num_classes: int | None = None
    ndpp: dict[str, Any] | None = None
    sync_bn: bool = False
    weights: str = ""
    calibrate: bool = False
    calibrate_batches: int = 20
    trainable: str = ""
    image_size: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    color_jitter: float = 0.0
    auto_augment: str = ""
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0
    workers: int = 4
    epochs: int = 90
    batch_size: int = 256
    accumulation: int = 1
    optimizer: str = "momentum"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_all: bool = True
    schedule: str = "cosine"
    warmup_epochs: int = 0
    warmup_lr: float = 0.0
    min_lr: float = 0.0
    decay_epochs: int = 30
    decay_rate: float = 0.1
    clip_grad: float = 0.0
    ema_decay: float = 0.0
    grad_compression: str = ""
    amp: str = ""
    channels_last: bool = False
    compile: bool = False
    seed: int = 0
    eval_every: int = 1
    save_every: int = 0
    log_every: int = 50
    stats_batches: int = 20

    def __post_init__(self) -> None:
        """Reports every fault at once.

        Raises:
            ValueError: Values of a wrong type, out of range, unknown, or at odds with one another.
        """
        # Contradictions can only be seen where types and ranges are right.
        faults = [*_type_faults(self), *_range_faults(self)] or [*_choice_faults(self), *_contradictions(self)]
        if faults:
            raise ValueError(f"the pretraining settings have faults: {'; '.join(faults)}.")


def field_types() -> dict[str, Any]:
    """Types of all settings by name."""
    return get_type_hints(PretrainConfig)


def _type_faults(config: PretrainConfig) -> Iterator[str]:
    types_by_name = field_types()
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in (*_RANGES, "crop_scale") and not _fits(value, types_by_name[field.name]):
            yield f"{field.name} is {value!r}, it must be {str(field.type).replace('[str, Any]', '')}"


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(kind))
    return isinstance(value, get_origin(kind) or kind)


def _range_faults(config: PretrainConfig) -> Iterator[str]:
    for name, wanted in _RANGES.items():
        value = getattr(config, name)
        if not wanted.holds(value) and not (name == "num_classes" and value is None):
            yield f"{name} is {value!r}, it must be {wanted}"
    shares = config.crop_scale
    whole = isinstance(shares, tuple) and len(shares) == 2 and all(map(_SHARE_NOT_0.holds, shares))
    if not whole or shares[0] > shares[1]:
        yield f"crop_scale is {shares!r}, it must be two shares above 0 and at most 1, the smaller first"


def _choice_faults(config: PretrainConfig) -> Iterator[str]:
    chosen = [(name, getattr(config, name), choices) for name, choices in _CHOICES.items()]
    chosen += [("optimizer", config.optimizer, tuple(list_optimizers()))]
    chosen += [("auto_augment", config.auto_augment.split("-")[0], _AUGMENTATIONS)]
    for name, value, choices in chosen:
        if value not in choices:
            near = get_close_matches(value, choices, n=3) or choices
            yield f"{name} is {value!r}, it must be one of {', '.join(map(repr, near))}"


def _contradictions(config: PretrainConfig) -> Iterator[str]:
    if config.batch_size % config.accumulation:
        yield f"batch_size = {config.batch_size} does not split into accumulation = {config.accumulation} micro-batches"
    if config.warmup_epochs >= config.epochs and config.warmup_epochs:
        yield f"warmup_epochs = {config.warmup_epochs} leaves nothing of epochs = {config.epochs}"
    if config.optimizer in ("sgd", "nesterov") and config.momentum == 0:
        yield f"optimizer = {config.optimizer!r} has Nesterov momentum, but momentum = 0: use optimizer 'momentum'"
    if config.calibrate and (config.ndpp is None or not config.weights):
        lacking = "ndpp settings" if config.ndpp is None else "weights (--weights FILE)"
        yield f"calibrate starts ND++ from trained weights, and there are no {lacking}: give them, or leave it out"
    try:
        check_compression(config.grad_compression)
    except ValueError as error:
        yield str(error)
    if config.ndpp is not None:
        try:
            read_options(config.ndpp, TASK)
        except ValueError as error:
            yield f"ndpp: {error}"
