"""What is known about every backbone, and how it is built: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CARDS", "BackboneCard"]


@dataclass(frozen=True)
class BackboneCard:
    """A registered backbone.

    Attributes:
        name: What ``create_backbone`` takes.
        params: Million parameters, at ``num_classes``.
        gflops: Thousand million multiply-adds of convolutions and matrix products, at ``image_size``.
        top1: Published ImageNet accuracy in percent after some 90 epochs, with the norms of its source; None where
            none is published.
        top1_long: The same with the long recipe of its source.
        source: Where architecture and accuracy are from.
        builder: Module of this package whose ``build`` makes it.
        options: What ``build`` takes beside ``num_classes``.
        image_size: Pixels a side.
        num_classes: That the figures are for.
    """

    name: str
    params: float
    gflops: float
    top1: float | None
    top1_long: float | None
    source: str
    builder: str
    options: Mapping[str, Any] = field(default_factory=dict)
    image_size: int = 224
    num_classes: int = 1000


R18, R50, R101 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)
RESNET = "ResNet, CVPR 2016"
PFLAYER = "PfLayer, ICLR 2022"
NDPP = "ND++, AAAI 2022, Table 1 (SyncBN)"
GAP = "arXiv:2604.27870 (160 classes, frozen convolutions)"
DEEP_STEM = {"stem_type": "deep", "stem_width": 32}  # of ResNetV1c, as MMSegmentation has it
WIDE = {"base_width": 128}
SE = {"block_args": {"attn_layer": "se"}}
VIT_S = {"kind": "pooling_vit", "embed_dim": 384, "depth": 12, "num_heads": 6}
VIT_B = {"kind": "vit", "embed_dim": 768, "depth": 12, "num_heads": 12}
PIT_S = {"kind": "pooling_pit", "base_dims": (48, 48, 48), "depth": (2, 6, 4), "heads": (3, 6, 12)}


def _resnet(
    name: str,
    params: float,
    gflops: float,
    top1: tuple[float | None, float | None],
    source: str,
    depths: tuple[int, ...],
    pattern: str | None,
    **options: Any,
) -> BackboneCard:
    options = {"depths": depths, "pattern": pattern, **options}
    return BackboneCard(name, params, gflops, *top1, source, "resnet", options)


def _vgg16(readout: str, params: float, gflops: float) -> BackboneCard:
    options = {"readout": readout}
    return BackboneCard(f"vgg16_{readout}", params, gflops, None, None, GAP, "vgg", options, 256, 160)


def _small_vgg16(readout: str, params: float, gflops: float) -> BackboneCard:
    """With batch norms and a quarter of the channels, for images of 64 pixels and ten classes."""
    options = {"readout": readout, "divisor": 4, "batch_norm": True, "image_size": 64}
    return BackboneCard(f"vgg16_small_{readout}", params, gflops, None, None, GAP, "vgg", options, 64, 10)


_NONE = (None, None)
_ALL = [
    _resnet("resnet18", 11.690, 1.814, _NONE, RESNET, R18, None),
    _resnet("resnet26", 15.995, 2.342, _NONE, f"{PFLAYER}, 3.3", R18, "BBBB"),
    _resnet("resnet26_hybrid", 12.823, 1.764, _NONE, f"{PFLAYER}, 3.3", R18, "hybrid"),
    _resnet("resnet50", 25.557, 4.089, (76.2, 78.5), f"{PFLAYER}, Tables 3 and 4", R50, "BBBB"),
    _resnet("resnet50_max", 14.232, 2.239, (72.0, 74.3), f"{PFLAYER}, Table 3", R50, "max"),
    _resnet("resnet50_hybrid", 17.331, 2.586, (74.9, 77.1), f"{PFLAYER}, Table 3", R50, "hybrid"),
    _resnet("resnet50_deform_max", 18.031, 2.879, (75.3, 78.3), f"{PFLAYER}, Table 3", R50, "deform_max"),
    _resnet("resnet50_deform_avg", 18.031, 2.879, (None, 78.3), f"{PFLAYER}, Table B.1", R50, "deform_avg"),
    _resnet("resnet50c", 25.576, 4.329, _NONE, "arXiv:1812.01187", R50, "BBBB", **DEEP_STEM),
    _resnet("resnet50c_hybrid", 17.350, 2.826, _NONE, PFLAYER, R50, "hybrid", **DEEP_STEM),
    _resnet("resnet101", 44.549, 7.801, (77.37, None), NDPP, R101, "BBBB"),
    _resnet("resnet101_hybrid", 26.287, 4.333, (None, 78.2), f"{PFLAYER}, Table 4", R101, "hybrid"),
    _resnet("wide_resnet50_2_hybrid", 35.989, 5.387, (None, 78.1), f"{PFLAYER}, Table 4", R50, "hybrid", **WIDE),
    _resnet("wide_resnet101_2_hybrid", 53.867, 8.880, (None, 78.9), f"{PFLAYER}, Table 4", R101, "hybrid", **WIDE),
    _resnet("seresnet50_hybrid", 19.862, 2.589, (None, 78.2), f"{PFLAYER}, Table 4", R50, "hybrid", **SE),
    BackboneCard("vit_small_max", 23.819, 4.744, 74.2, 80.0, f"{PFLAYER}, Table 6", "transformer", VIT_S),
    BackboneCard("pit_small_max", 25.120, 2.813, 75.7, 80.8, f"{PFLAYER}, Table 6", "transformer", PIT_S),
    BackboneCard("vit_base", 86.568, 17.564, None, None, "ViT, ICLR 2021 (ViT-B/16)", "transformer", VIT_B),
    BackboneCard("vgg11", 132.863, 7.609, 71.11, None, NDPP, "timm_model", {"name": "vgg11"}),
    BackboneCard("densenet121", 7.979, 2.834, 74.65, None, NDPP, "timm_model", {"name": "densenet121"}),
    _vgg16("flatten", 19.957728, 20.050),
    _vgg16("gap", 14.796768, 20.045),
    _vgg16("multi_gap", 14.950368, 20.045),
    _vgg16("multi_gap_flatten", 20.193248, 20.050),
    _small_vgg16("flatten", 0.928026, 0.0796),
    _small_vgg16("gap", 0.924186, 0.0796),
    _small_vgg16("multi_gap", 0.926586, 0.0796),
    _small_vgg16("multi_gap_flatten", 0.931706, 0.0796),
]
CARDS = {card.name: card for card in _ALL}
