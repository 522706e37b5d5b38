"""Data sets, a check of labels, and IoU by class."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset, CityscapesDataset
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS, METRICS, TRANSFORMS

from ndpp_dense.datasets.streets import ensure_streets
from ndpp_dense.datasets.streets_scene import TRAIN_IDS

__all__ = ["CamVidDataset", "CheckLabels", "ClassIoUMetric", "StreetsDataset"]

_CITYSCAPES = CityscapesDataset.METAINFO
_NEAREST_SHOWN = 5


@DATASETS.register_module()
class StreetsDataset(CityscapesDataset):
    """The generated street set, in Cityscapes' layout; made on first use where no ``data_root`` is given.

    Args:
        data_root: An existing folder in Cityscapes' layout; None generates the set.
        **kwargs: As for CityscapesDataset.
    """

    def __init__(self, data_root: str | None = None, **kwargs: Any) -> None:
        # Cityscapes' label ids are mapped to 0..7 by naming the classes.
        kwargs.setdefault("metainfo", {"classes": list(TRAIN_IDS)})
        super().__init__(data_root=data_root or str(ensure_streets()), **kwargs)


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid with 11 classes at 480 x 360, labels 0..10 and 11 for what is ignored.

    Folders ``images/{train,val}`` and ``labels/{train,val}`` with equal file names.
    """

    METAINFO: ClassVar[dict[str, Any]] = {
        "classes": (
            ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
        ),
        "palette": [
            [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
            [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192],
        ],
    }  # fmt: skip

    def __init__(self, img_suffix: str = ".jpg", seg_map_suffix: str = ".png", **kwargs: Any) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, ignore_index=11, **kwargs)


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Refuses labels that would fail deep inside the loss, naming the file. Put it right after LoadCheckedLabels.

    Args:
        num_classes: Labels must be below it, or be ``ignore_index``.
        ignore_index: Label without a class.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Checks one sample and returns it.

        Raises:
            ValueError: Image and labels differ in size, or a label has no class.
        """
        labels = results["gt_seg_map"]
        size = results.get("ori_shape", results["img"].shape)[:2]  # in tests the image is resized, the labels are not
        if labels.shape[:2] != size:
            raise ValueError(
                f"{results['seg_map_path']} has {_size(labels.shape)} pixels, its image {results['img_path']} "
                f"{_size(size)}: they must be of the same size."
            )
        found = np.flatnonzero(np.bincount(labels.ravel()))
        bad = [int(label) for label in found if label >= self.num_classes and label != self.ignore_index]
        if bad:
            raise ValueError(
                f"{results['seg_map_path']} holds the labels {', '.join(map(str, bad[:_NEAREST_SHOWN]))}"
                f"{', ...' if len(bad) > _NEAREST_SHOWN else ''}; with {self.num_classes} classes they must be 0 to "
                f"{self.num_classes - 1}, or {self.ignore_index} for pixels to ignore. Correct num_classes, or convert "
                "the labels (Cityscapes: use the files that end in _gtFine_labelTrainIds.png)."
            )
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_classes={self.num_classes}, ignore_index={self.ignore_index})"


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """IoUMetric that returns the IoU of each class too, as ``IoU-<class>``, instead of only logging it."""

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Adds up areas over all images; a class that never occurs gets NaN."""
        metrics = super().compute_metrics(results)
        intersections, unions = (torch.stack([areas[index] for areas in results]).sum(0).tolist() for index in (0, 1))
        classes = (self.dataset_meta or {})["classes"]
        for name, intersection, union in zip(classes, intersections, unions, strict=True):
            metrics[f"IoU-{name}"] = round(100 * intersection / union, 2) if union else float("nan")
        return metrics


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
