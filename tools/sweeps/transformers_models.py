"""The models of the sweep that are of Hugging Face's `transformers`."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from sweeps.check import Case
from sweeps.inputs import fed

__all__ = ["hugging_face_cases"]

_HUGGING_FACE: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": {"num_hidden_layers": 2},
    "DeiTForImageClassification": {"num_hidden_layers": 2},
    "BeitForImageClassification": {"num_hidden_layers": 2},
    "Dinov2ForImageClassification": {"num_hidden_layers": 2},
    "SwinForImageClassification": {},
    "Swinv2ForImageClassification": {},
    "ConvNextForImageClassification": {},
    "ConvNextV2ForImageClassification": {},
    "ResNetForImageClassification": {},
    "RegNetForImageClassification": {},
    "MobileNetV1ForImageClassification": {},
    "MobileNetV2ForImageClassification": {},
    "MobileViTForImageClassification": {},
    "MobileViTV2ForImageClassification": {},
    "SegformerForSemanticSegmentation": {},
    "LevitForImageClassification": {},
    "PvtForImageClassification": {},
    "PvtV2ForImageClassification": {},
    "CvtForImageClassification": {},
    "FocalNetForImageClassification": {},
    "PoolFormerForImageClassification": {},
    "EfficientNetForImageClassification": {},
    "BitForImageClassification": {},
    "HieraForImageClassification": {},
    "DPTForSemanticSegmentation": {"num_hidden_layers": 12},
    "UperNetForSemanticSegmentation": {},
    "YolosForObjectDetection": {"num_hidden_layers": 2},
    "DetrForObjectDetection": {"use_pretrained_backbone": False},
    "ConditionalDetrForObjectDetection": {"use_pretrained_backbone": False},
    "DeformableDetrForObjectDetection": {"use_pretrained_backbone": False},
    "Mask2FormerForUniversalSegmentation": {},
    "MaskFormerForInstanceSegmentation": {},
    "GLPNForDepthEstimation": {},
    "SuperPointForKeypointDetection": {},
}


def hugging_face_cases() -> Iterator[Case]:
    """Vision models of `transformers`, built from their default configs."""
    import transformers

    for name, changes in _HUGGING_FACE.items():
        kind: Callable[..., Any] = getattr(transformers, name)
        yield Case("Hugging Face", name, partial(_hugging_face_model, kind, changes), _run_hugging_face)


def _hugging_face_model(kind: Any, changes: dict[str, Any]) -> nn.Module:
    return kind(kind.config_class(**changes))


def _run_hugging_face(model: nn.Module) -> Any:
    size: Any = getattr(model.config, "image_size", 0) or 224  # type: ignore[union-attr]
    size = size if isinstance(size, int) else size[0]
    channels = int(getattr(model.config, "num_channels", 3))  # type: ignore[union-attr, arg-type]
    return dict(fed(model, *((2, channels, side, side) for side in (size, 224))))
