"""What is measured of training, inference and pooling on a GPU: the sizes, and in a rehearsal tiny ones of all."""

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.case import Case, Settings, Step, images, inference_step, training_step
from bench.frameworks import SMALL_BLOCKS, detector_step, mute, segmentor_step
from bench.gpu.sync_batch_norm import synchronised_alone
from bench.inference import MAKERS, POOLING
from bench.suites import METHODS
from bench.timing import graphed, needs_gpu
from ndpp_dense import create_backbone

BACKBONE = ("BN", "SyncBN", "GN", "IterNorm", "ND++ fast", "ND++ fast, every=4", "ND++ fast, stale", "ND++ paper")
DETECTOR = ("FrozenBN", "SyncBN", "GN", "ND++ fast", "ND++ fast, stale", "ND++ paper")
SEGMENTOR = ("BN", "SyncBN", "GN", "ND++ fast", "ND++ fast, stale", "ND++ paper")
GRAPHS, COMPILED = "CUDA graphs", "compiled"
DETECTOR_SIZE = ((4, 800, 1344), (1, 64, 96))  # images, height and width; and in a rehearsal
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def backbone_cases(settings: Settings) -> list[Case]:
    """Training steps of ResNet-50, eager; then replayed as CUDA graphs, against the eager baseline."""
    pool = _pool(settings)

    def replayed(label: str) -> Step:
        needs_gpu()
        step = _backbone_step(label, settings)
        try:
            return graphed(step, pool())
        except NotImplementedError:
            pool.cache_clear()  # what a capture leaves behind that failed
            raise

    eager: dict[str, Callable[[], Step]] = {label: partial(_backbone_step, label, settings) for label in BACKBONE}
    graphs = {BACKBONE[0]: eager[BACKBONE[0]], **{f"{label}, graph": partial(replayed, label) for label in BACKBONE}}
    _, batch, size = _backbone_size(settings)
    name = f"batch {batch}, {size} px"
    return [Case(name, eager, peak=True), Case(f"{name}, {GRAPHS}", graphs)]


def _backbone_size(settings: Settings) -> tuple[str, int, int]:
    return ("resnet18", 2, 32) if settings.rehearse else ("resnet50", 64, 224)


def _backbone_step(label: str, settings: Settings) -> Step:
    network, batch, size = _backbone_size(settings)
    fields = SMALL_BLOCKS if settings.rehearse and label.startswith("ND++") else {}
    model = METHODS[label](create_backbone(network), **fields)
    model = settings.place(synchronised_alone(model, settings) if label == "SyncBN" else model)
    return training_step(model, images(batch, size, settings), settings)


def _pool(settings: Settings) -> Any:
    """One pool of memory for all graphs: no two are replayed at once, and each would keep its own for good."""
    return cache(torch.cuda.graph_pool_handle if settings.device == "cuda" else lambda: None)


def detector_cases(settings: Settings) -> list[Case]:
    """Training steps of Mask R-CNN R50-FPN."""
    mute()
    batch, height, width = DETECTOR_SIZE[settings.rehearse]
    torch.backends.cudnn.benchmark = False  # sizes of regions differ, and every new one would be tried out
    peers = {label: partial(detector_step, label, batch, height, width, settings) for label in DETECTOR}
    return [Case(f"batch {batch}, {height} x {width} px", peers, peak=True)]


def segmentor_cases(settings: Settings) -> list[Case]:
    """Training steps of DeepLabv3 R50."""
    mute()
    batch, height, width = (2, 32, 64) if settings.rehearse else (4, 512, 1024)
    peers = {label: partial(segmentor_step, label, batch, height, width, settings) for label in SEGMENTOR}
    return [Case(f"batch {batch}, {height} x {width} px", peers, peak=True)]


def inference_cases(settings: Settings) -> list[Case]:
    """Inference of ResNet-50, folded and not: eager, as CUDA graphs, and compiled, which takes longest to prepare."""
    network, sizes, size = ("resnet18", (1,), 32) if settings.rehearse else ("resnet50", (1, 32), 224)
    pool = _pool(settings)

    @cache
    def made(label: str) -> nn.Module:
        return MAKERS[label](network).eval()

    def build(label: str, batch: int, dtype: torch.dtype, how: str) -> Step:
        if how == GRAPHS:
            needs_gpu()
        model: Any = settings.place(copy.deepcopy(made(label)))
        x = images(batch, size, settings)
        constant = "folded" in label  # weights, which need no more than to be in lower precision
        if constant:
            model, x = model.to(dtype), x.to(dtype)
        if how == COMPILED:  # a rehearsal spares itself the compiler behind the trace
            model = torch.compile(model, backend="aot_eager" if settings.rehearse else "inductor")

        def step() -> Tensor:
            with torch.inference_mode(), torch.autocast(settings.device, dtype, enabled=not constant):
                return model(x)

        return graphed(step, pool()) if how == GRAPHS else step

    labels = {"eager": MAKERS, GRAPHS: MAKERS, COMPILED: ("BN folded", "ND++ folded")}
    return [
        Case(f"batch {n}, {name}, {how}", {label: partial(build, label, n, dtype, how) for label in labels[how]})
        for name, dtype in DTYPES.items()
        for how in labels
        for n in sizes
    ]


def pooling_cases(settings: Settings) -> list[Case]:
    """Inference and training steps of ResNet-50 with pooling bottlenecks."""
    sizes, train, size = ((1,), 2, 32) if settings.rehearse else ((1, 32), 64, 224)

    def build(name: str, batch: int, training: bool) -> Step:
        model, x = settings.place(create_backbone(name)), images(batch, size, settings)
        return training_step(model, x, settings) if training else inference_step(model, x, settings)

    cases = [Case(f"inference, batch {n}, {size} px", {p: partial(build, p, n, False) for p in POOLING}) for n in sizes]
    name = f"training step, batch {train}, {size} px"
    return [*cases, Case(name, {p: partial(build, p, train, True) for p in POOLING}, peak=True)]


def kernel_steps(settings: Settings) -> dict[str, Callable[[], Step]]:
    """Builders of the training steps with ND++ fast whose kernels are looked at."""
    label = "ND++ fast"
    batch, height, width = DETECTOR_SIZE[settings.rehearse]

    def detector() -> Step:
        mute()
        return detector_step(label, batch, height, width, settings)

    return {"ResNet-50": partial(_backbone_step, label, settings), "Mask R-CNN": detector}
