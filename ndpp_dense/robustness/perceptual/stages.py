"""The maps of a backbone's stages, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "StageMaps", "check_images"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_WAYS = ("forward", "forward_features", "forward_intermediates")
_TOLERANCE = 0.01  # of values outside of [0, 1], as interpolation leaves them


class StageMaps(nn.Module):
    """A frozen backbone that takes images of [0, 1] and returns the map of every stage.

    Works on timm's ``features_only`` models and classifiers, this project's backbones, and backbones of Detectron2 and
    MMSegmentation: on whatever returns a list, tuple or dict of maps from ``forward``, ``forward_features`` or
    ``forward_intermediates``.

    Args:
        model: The backbone; put into evaluation mode for good, its parameters get no gradients.
        mean: Of the images' channels that the backbone expects.
        std: Likewise.
        image_size: Pixels a side of the blank image that is sent through once, to see what comes out.

    Attributes:
        channels: Of every stage.
        min_size: Smallest height and width of an image, the stride of the last stage.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        image_size: int = 64,
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        first = next(iter(model.parameters()), torch.zeros(()))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1).to(first), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1).to(first), persistent=False)
        with torch.no_grad():
            self.way, maps = _way_to_maps(model, torch.zeros(1, 3, image_size, image_size).to(first))
        self.channels = tuple(int(stage.shape[1]) for stage in maps)
        self.min_size = max(image_size // max(1, min(stage.shape[2:])) for stage in maps)

    def train(self, mode: bool = True) -> StageMaps:
        """Leaves the backbone in evaluation mode: a distance must not depend on what else is in the batch."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps images ``(N, 3, H, W)`` of [0, 1] to maps ``(N, C, h, w)``, one a stage.

        Raises:
            ValueError: Wrong shape, range or size.
        """
        check_images(images, self.min_size)
        return _maps(_call(self.model, self.way, (images - self.mean) / self.std))


def check_images(images: Tensor, min_size: int = 1) -> None:
    """Refuses what is no batch of images of [0, 1].

    Args:
        images: ``(N, 3, H, W)``.
        min_size: Of H and W.

    Raises:
        ValueError: Names the shape or the range received, and what to do.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"Images of shape {tuple(images.shape)} and type {images.dtype}: give floating point (N, 3, H, W), RGB."
        )
    if min(images.shape[2:]) < min_size:
        height, width = images.shape[2:]
        raise ValueError(
            f"Image too small: {height} x {width} pixels, at least {min_size} x {min_size} are needed. "
            "Give larger images, or a backbone with a smaller stride."
        )
    if not images.numel():
        return
    low, high = float(images.detach().amin()), float(images.detach().amax())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise ValueError(
            f"Images with values of {low:g} to {high:g}: [0, 1] is expected. Divide bytes by 255; "
            "(x + 1) / 2 for images of [-1, 1], as lpips takes them."
        )


def _way_to_maps(model: nn.Module, blank: Tensor) -> tuple[str, list[Tensor]]:
    """The method that returns maps, and the maps of a blank image."""
    for way in _WAYS:
        if not hasattr(model, way):
            continue
        try:
            maps = _maps(_call(model, way, blank))
        except (TypeError, NotImplementedError, AttributeError):  # of another signature
            continue
        if maps:
            return way, maps
    raise ValueError(
        f"{type(model).__name__} returns no maps (N, C, H, W) from any of {', '.join(_WAYS)}. "
        "Give a backbone that does, such as timm.create_model(NAME, features_only=True)."
    )


def _call(model: nn.Module, way: str, images: Tensor) -> Any:
    options = {"intermediates_only": True} if way == "forward_intermediates" else {}
    return getattr(model, way)(images, **options)


def _maps(found: Any) -> list[Tensor]:
    """The maps in what a model returned; none in a single tensor, which is its last map or its answer."""
    values = list(found.values()) if isinstance(found, Mapping) else found if isinstance(found, list | tuple) else []
    return [value for value in values if isinstance(value, Tensor) and value.ndim == 4]
