"""Detectron2's data set mapper with this package's reader of images, and errors that name the file."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.utils.file_io import PathManager

from ndpp_dense.images import read_image, read_labels

__all__ = ["CheckedDatasetMapper", "check_thickness", "read_pixels"]


class CheckedDatasetMapper(DatasetMapper):
    """Detectron2's `DatasetMapper`, for training and for evaluation.

    Images of any depth are read as every tool of this package reads them. A missing, damaged or unusable file raises an
    error that names it.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Maps one record of a data set to the input of a model.

        Args:
            dataset_dict: one record in Detectron2's format.

        Returns:
            What `DatasetMapper` returns.

        Raises:
            FileNotFoundError: the image does not exist.
            ValueError: the image cannot be decoded, is of another size than the record says, or cannot be augmented.
        """
        record = copy.deepcopy(dataset_dict)
        image = read_pixels(record["file_name"], self.image_format)
        try:
            utils.check_image_size(record, image)
            return self._augmented(record, image)
        except ValueError as error:
            raise ValueError(
                f"image {record['file_name']} (image_id {record.get('image_id')}, {image.shape[1]} x {image.shape[0]} "
                f"pixels): {' '.join(str(error).split())}. Correct its entry in the annotations, or remove both."
            ) from error

    def _augmented(self, record: dict[str, Any], image: np.ndarray) -> dict[str, Any]:
        """As in Detectron2."""
        labels = self._semantic_labels(record, image)
        augmented: Any = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(augmented)
        shape = augmented.image.shape[:2]
        record["image"] = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if augmented.sem_seg is not None:
            record["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            utils.transform_proposals(record, shape, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            record.pop("annotations", None)
            record.pop("sem_seg_file_name", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, shape)
        return record

    def _semantic_labels(self, record: dict[str, Any], image: np.ndarray) -> np.ndarray | None:
        if "sem_seg_file_name" not in record:
            return None
        file_name = record.pop("sem_seg_file_name")
        labels = read_labels(PathManager.get_local_path(file_name), file_name)
        if labels.shape != image.shape[:2] or labels.max() > 255:
            size = f"{labels.shape[1]} x {labels.shape[0]} pixels, labels up to {labels.max()}"
            raise ValueError(f"its labels {file_name} have {size}; they must be of its size, and 255 at most")
        return labels.astype(np.uint8)


def read_pixels(file_name: str, image_format: str) -> np.ndarray:
    """Reads an image of any depth.

    Args:
        file_name: a path that Detectron2's PathManager knows.
        image_format: `INPUT.FORMAT`: "BGR", "RGB", "L" or "YUV-BT.601".

    Returns:
        (H, W, C); uint8, or floats where the format has them.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it cannot be read.
    """
    return utils.convert_PIL_to_numpy(read_image(PathManager.get_local_path(file_name), file_name), image_format)


def check_thickness(height: int, width: int, shortest: int, longest: int) -> None:
    """Refuses an image that resizing would leave without a pixel on one side.

    Args:
        height: of the image, in pixels.
        width: likewise.
        shortest: `INPUT.MIN_SIZE_TEST`, or one of `INPUT.MIN_SIZE_TRAIN`; 0 does not resize.
        longest: `INPUT.MAX_SIZE_TEST` or `INPUT.MAX_SIZE_TRAIN`.

    Raises:
        ValueError: says what it would become.
    """
    if shortest and min(T.ResizeShortestEdge.get_output_shape(height, width, shortest, longest)) < 1:
        raise ValueError(
            f"{width} x {height} pixels are too thin: with the longer side at {longest}, the other one would be 0"
        )
