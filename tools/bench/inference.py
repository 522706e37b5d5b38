"""The suites on inference: ResNet-50 folded and not, and with pooling bottlenecks."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from bench.case import Case, Settings, Step, batches, images, inference_step
from bench.peers import fold_batch_norms, whitened
from ndpp_dense import WhiteningConfig, create_backbone, fold_ndpp

MAKERS: dict[str, Callable[[str], nn.Module]] = {  # of a backbone by its name
    "BN folded": lambda name: fold_batch_norms(create_backbone(name)),
    "BN": create_backbone,
    "ND++ folded": lambda name: fold_ndpp(whitened(create_backbone(name), "fast")),
    "ND++ converted": lambda name: whitened(create_backbone(name), "fast"),
    "ND++ folded, no local scale": lambda name: fold_ndpp(
        create_backbone(name, ndpp=WhiteningConfig(local_scale="none"))
    ),
}
POOLING = ("resnet50", "resnet50_max", "resnet50_hybrid", "resnet50_deform_max")


def pooling_cases(settings: Settings) -> list[Case]:
    """Inference of ResNet-50 and of its pooling relatives, by layout."""

    def build(name: str, batch: int, layout: torch.memory_format, compiled: bool) -> Step:
        model = create_backbone(name).to(device=settings.device, memory_format=layout)  # type: ignore[call-overload]
        x = torch.randn(batch, 3, 224, 224, device=settings.device).contiguous(memory_format=layout)
        return inference_step(torch.compile(model) if compiled else model, x, settings)  # type: ignore[arg-type]

    layouts = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}
    sizes: Sequence[int] = [1] if settings.quick else batches(settings)
    return [
        Case(
            f"batch {batch}, {layout}, {'compiled' if compiled else 'eager'}",
            {name: partial(build, name, batch, layouts[layout], compiled) for name in POOLING},
        )
        for compiled in ([False] if settings.quick else [False, True])
        for batch in sizes
        for layout in layouts
    ]


def inference_cases(settings: Settings) -> list[Case]:
    """Inference of ResNet-50: folded and not."""

    def build(name: str, batch: int, compiled: bool) -> Step:
        model = settings.place(MAKERS[name]("resnet50"))
        x = images(batch, 224, settings)
        return inference_step(torch.compile(model) if compiled else model, x, settings)  # type: ignore[arg-type]

    return [
        Case(
            f"batch {batch}, 224 px, {'compiled' if compiled else 'eager'}",
            {name: partial(build, name, batch, compiled) for name in MAKERS},
        )
        for compiled in ([False] if settings.quick else [False, True])
        for batch in ([1] if settings.quick else batches(settings))
    ]
