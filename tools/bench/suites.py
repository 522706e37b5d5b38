"""The suites on training of classifiers and single layers, and the list of all suites."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from bench.case import Case, Settings, Step, Suite, batches, images, training_step
from bench.collectives import collective_cases
from bench.frameworks import detector_cases, segmentor_cases
from bench.inference import inference_cases, pooling_cases
from bench.launches import launch_cases
from bench.memory import memory_step
from bench.peers import IterNorm2d, replace_norms, whitened
from bench.profile import profile
from bench.solver import solver_cases
from ndpp_dense import create_backbone
from ndpp_dense.integrations.registry import framework

LAYERS = {  # in, out, kernel, stride, side of the input: what ResNet-50 has at 224 pixels
    "7x7/2, 3 to 64, 224": (3, 64, 7, 2, 224),
    "1x1, 256 to 64, 56": (256, 64, 1, 1, 56),
    "3x3, 64 to 64, 56": (64, 64, 3, 1, 56),
    "3x3, 128 to 128, 28": (128, 128, 3, 1, 28),
    "1x1, 1024 to 256, 14": (1024, 256, 1, 1, 14),
    "3x3, 512 to 512, 7": (512, 512, 3, 1, 7),
}


def frozen_norm(channels: int) -> nn.Module:
    """Batch norm as detectors freeze it."""
    from torchvision.ops import FrozenBatchNorm2d

    return FrozenBatchNorm2d(channels)


METHODS: dict[str, Callable[..., nn.Module]] = {
    "BN": lambda model: model,
    "SyncBN": nn.SyncBatchNorm.convert_sync_batchnorm,
    "FrozenBN": partial(replace_norms, make=frozen_norm),
    "GN": partial(replace_norms, make=partial(nn.GroupNorm, 32)),
    "LN": partial(replace_norms, make=partial(nn.GroupNorm, 1)),
    "IterNorm": partial(replace_norms, make=IterNorm2d),
    "ND++ fast": whitened,
    "ND++ fast, every=4": partial(whitened, schedule="every=4"),
    "ND++ fast, stale": partial(whitened, schedule="stale"),
    "ND++ paper": partial(whitened, preset="paper"),
    "ND++ unfold": partial(whitened, preset="paper", unfold=True),
}
LARGER_BLOCKS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "BN": METHODS["BN"],
    "ND++ fast": METHODS["ND++ fast"],
    "ND++ fast, block_size_spatial=16": partial(whitened, block_size_spatial=16),
    "ND++ fast, block_size_spatial=32": partial(whitened, block_size_spatial=32),
    "ND++ fast, block_size_spatial=32, every=4": partial(whitened, block_size_spatial=32, schedule="every=4"),
}


def layer_cases(settings: Settings) -> list[Case]:
    """Training steps of one convolution and its norm."""

    def build(shape: tuple[int, ...], method: str) -> Step:
        channels, out, kernel, stride, side = shape
        conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        model = METHODS[method](nn.Sequential(conv, nn.BatchNorm2d(out)))
        x = images(2 if settings.quick else 8, side, settings, channels).requires_grad_(channels > 3)
        return training_step(settings.place(model), x, settings)

    of_models = ("SyncBN", "FrozenBN", "ND++ fast, every=4", "ND++ fast, stale")  # of all layers together
    names = [name for name in METHODS if name not in of_models]
    shapes = list(LAYERS.items())[1::2] if settings.quick else LAYERS.items()
    return [Case(name, {method: partial(build, shape, method) for method in names}) for name, shape in shapes]


def backbone_step(
    make: Callable[[nn.Module], nn.Module], batch: int, size: int, settings: Settings, compiled: bool = False
) -> Step:
    """A training step of ResNet-50."""
    model = settings.place(make(create_backbone("resnet50")))
    chosen: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
    return training_step(chosen, images(batch, size, settings), settings)


def backbone_sizes(settings: Settings) -> list[tuple[int, int]]:
    """Batches and pixels."""
    return [(2, 96)] if settings.quick else [(batch, 224) for batch in batches(settings)]


def backbone_cases(settings: Settings) -> list[Case]:
    """Training steps of ResNet-50 with every norm; of the largest size compiled ones too."""
    sizes = backbone_sizes(settings)
    cases = [
        Case(
            f"batch {batch}, {size} px",
            {name: partial(backbone_step, make, batch, size, settings) for name, make in METHODS.items()},
        )
        for batch, size in sizes
    ]
    if settings.quick:
        return cases
    batch, size = sizes[-1]
    compiled = ("BN", "GN", "ND++ fast")
    steps = {name: partial(backbone_step, METHODS[name], batch, size, settings, True) for name in compiled}
    return [*cases, Case(f"batch {batch}, {size} px, compiled", steps)]


def block_cases(settings: Settings) -> list[Case]:
    """Training steps of ResNet-50 whose 3x3 convolutions whiten more channels together."""

    def steps(batch: int, size: int) -> dict[str, Callable[[], Step]]:
        return {name: partial(backbone_step, make, batch, size, settings) for name, make in LARGER_BLOCKS.items()}

    sizes = [(2, 96)] if settings.quick else [(8, 224), (64 if settings.device == "cuda" else 32, 224)]
    return [Case(f"batch {batch}, {size} px", steps(batch, size)) for batch, size in sizes]


def profiled(settings: Settings) -> dict[str, dict[str, float | None]]:
    """Seconds by part of the training step of ResNet-50 with ND++, at the largest size of the suite."""
    batch, size = backbone_sizes(settings)[-1]
    found = {}
    for name in ("ND++ fast", "ND++ paper"):
        torch.manual_seed(0)
        model = settings.place(METHODS[name](create_backbone("resnet50")))
        found[name] = profile(model, images(batch, size, settings), settings)
    return found


def memory_cases(settings: Settings) -> list[Case]:
    """Peak memory of training steps of ResNet-50."""

    def build(method: str, batch: int, size: int) -> Step:
        model = settings.place(METHODS[method](create_backbone("resnet50")))
        return memory_step(model, images(batch, size, settings), settings)

    sizes = [(2, 96)] if settings.quick else [(8, 224)]
    names = ("SyncBN", "GN", "IterNorm", "ND++ fast", "ND++ paper", "ND++ unfold")
    return [
        Case(
            f"batch {batch}, {size} px",
            {name: partial(build, name, batch, size) for name in names},
            unit="MB",
            measure=lambda step: float(step()),  # pyright: ignore[reportArgumentType]
            exact=True,
        )
        for batch, size in sizes
    ]


def _needs(name: str, *more: str) -> dict[str, Any]:
    record = framework(name)
    return {"needs": (*record.packages, *more), "install": record.install}


TIMM = _needs("timm", "torchvision")
DETECTRON2 = _needs("detectron2")
MMSEG = _needs("mmseg")
SUITES = {
    "layer": Suite("Training step of one convolution with its norm", layer_cases),
    "backbone": Suite("Training step of ResNet-50", backbone_cases, **TIMM),
    "blocks": Suite("Training step of ResNet-50 by channels of a block", block_cases, **TIMM, quick=False),
    "pooling": Suite("Inference of ResNet-50 with pooling bottlenecks", pooling_cases, **TIMM),
    "inference": Suite("Inference of ResNet-50, folded and not", inference_cases, **TIMM),
    "launches": Suite("Operations of a training step on a device", launch_cases, **TIMM),
    "memory": Suite("Peak memory of a training step of ResNet-50", memory_cases, **TIMM),
    "collectives": Suite("What the norms of ResNet-50 send in a training step", collective_cases, **TIMM),
    "solver": Suite("Inverse square roots of real covariances", solver_cases, **TIMM),
    "detector": Suite("Training step of Mask R-CNN R50-FPN", detector_cases, **DETECTRON2, quick=False),
    "segmentor": Suite("Training step of DeepLabv3 R50", segmentor_cases, **MMSEG, quick=False),
}
