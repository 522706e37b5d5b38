"""Images and labels from files in MMSegmentation's pipelines, read as in every tool of this package."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from ndpp_dense.images import read_image, read_labels

__all__ = ["LoadCheckedImage", "LoadCheckedLabels"]

_MOST = 255  # MMSegmentation keeps labels in 8 bits
_SHOWN = 5


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """LoadImageFromFile for images of any depth; what it cannot read, it names.

    Args:
        scale: Width and height that the pipeline resizes to at the least, with the sides' ratio kept: an image that
            would lose its last row or column is refused. None does not check.
        **kwargs: As for LoadImageFromFile; decoding is always this package's own, to BGR.
    """

    def __init__(self, scale: Sequence[float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = None if scale is None else tuple(scale)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reads ``img_path`` into ``img``, (H, W, 3), BGR.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read, or is too thin.
        """
        name = results["img_path"]
        image = read_image(io.BytesIO(fileio.get(name, backend_args=self.backend_args)), name)
        if self.scale is not None:
            factor = min(max(self.scale) / max(image.size), min(self.scale) / min(image.size))
            if int(min(image.size) * factor + 0.5) < 1:
                raise ValueError(
                    f"image {name}: {image.width} x {image.height} pixels are too thin: resized to "
                    f"{self.scale[0]:g} x {self.scale[1]:g}, one side would be 0. Remove or cut it."
                )
        pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
        results["img"] = pixels.astype(np.float32) if self.to_float32 else pixels
        results["img_shape"] = results["ori_shape"] = pixels.shape[:2]
        return results


@TRANSFORMS.register_module()
class LoadCheckedLabels(LoadAnnotations):
    """LoadAnnotations that refuses labels of several channels, and numbers above 255 instead of casting them."""

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        name = results["seg_map_path"]
        numbers = read_labels(io.BytesIO(fileio.get(name, backend_args=self.backend_args)), name)
        large = np.unique(numbers[(numbers > _MOST) | (numbers < 0)])
        if len(large):
            shown = ", ".join(map(str, large[:_SHOWN])) + (", ..." if len(large) > _SHOWN else "")
            raise ValueError(f"{name} holds the labels {shown}; they must be 0 to {_MOST}. Convert the labels.")
        labels = numbers.astype(np.uint8)
        if results["reduce_zero_label"]:
            labels = np.where((labels == 0) | (labels == _MOST), _MOST, labels - 1).astype(np.uint8)
        mapping = np.arange(_MOST + 1, dtype=np.uint8)
        for old, new in (results.get("label_map") or {}).items():
            mapping[old] = new
        results["gt_seg_map"] = mapping[labels]
        results["seg_fields"].append("gt_seg_map")
