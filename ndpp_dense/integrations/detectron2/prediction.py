"""Predicting with a detector of the model zoo or of a run, and drawing what it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import transforms
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from torch import nn

from ndpp_dense import fold_ndpp, nd_layers
from ndpp_dense.integrations.detectron2.checkpoint import NDCheckpointer
from ndpp_dense.integrations.detectron2.class_names import read_class_names
from ndpp_dense.integrations.detectron2.config import add_ndpp_config
from ndpp_dense.integrations.detectron2.mapper import check_thickness
from ndpp_dense.integrations.detectron2.run_config import merge_config
from ndpp_dense.integrations.detectron2.zoo import build_zoo_model, zoo_config
from ndpp_dense.training.prepare import NORM_RULES
from ndpp_dense.zoo import Checkpoint, load_into
from ndpp_dense.zoo.weights import load_own

__all__ = ["Detections", "Predictor", "of_run", "of_zoo"]

_DRAWN_SIDE = 640  # pixels of the longer side that small images are enlarged to, so that labels can be read
SCORE = 0.5


@dataclass(frozen=True)
class Detections:
    """What was found in an image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        instances: Detectron2's, on the CPU, at the image's size.
        classes: Names by class number.
    """

    image: np.ndarray
    instances: Instances
    classes: tuple[str, ...]

    def picture(self) -> np.ndarray:
        """The image with boxes, masks, names and scores: (H', W', 3) uint8, RGB."""
        scale = max(1.0, _DRAWN_SIDE / max(self.image.shape[:2]))
        # Detectron2 asks its metadata for names alone here.
        metadata: Any = SimpleNamespace(thing_classes=list(self.classes))
        metadata.get = lambda key, default=None: getattr(metadata, key, default)
        drawn = Visualizer(self.image, metadata, scale=scale).draw_instance_predictions(self.instances)
        return drawn.get_image()

    def record(self) -> dict[str, Any]:
        """Boxes (XYXY, pixels), scores, classes and masks (RLE as in COCO), as plain values."""
        found = self.instances
        masks = _encoded(found.pred_masks.numpy()) if found.has("pred_masks") else [None] * len(found)
        numbers = zip(found.pred_boxes.tensor.tolist(), found.scores.tolist(), found.pred_classes.tolist(), strict=True)
        entries = [
            {"class": self._name(number), "score": round(score, 4), "box": [round(edge, 2) for edge in box]}
            for box, score, number in numbers
        ]
        return {
            "height": self.image.shape[0],
            "width": self.image.shape[1],
            "instances": [
                {**entry, "mask": mask} if mask else entry for entry, mask in zip(entries, masks, strict=True)
            ],
        }

    def summary(self) -> str:
        """How many objects of which class."""
        numbers, counts = np.unique(self.instances.pred_classes.numpy(), return_counts=True)
        return (
            ", ".join(f"{count} x {self._name(int(n))}" for n, count in zip(numbers, counts, strict=True)) or "nothing"
        )

    def _name(self, number: int) -> str:
        return self.classes[number] if number < len(self.classes) else str(number)


def of_zoo(checkpoint: Checkpoint, device: str = "cpu", score: float = SCORE) -> Predictor:
    """A detector of the model zoo.

    Args:
        checkpoint: Its row and weights, as ``ndpp_dense.load_checkpoint`` returns them.
        device: ``cpu`` or ``cuda``.
        score: Objects below it are left out, 0 to 1.
    """
    row = checkpoint.model
    network = build_zoo_model(row, device)
    load_into(network, checkpoint.weights, row.name)
    return Predictor(network, zoo_config(row, device), row.classes, score)


def of_run(config: Path, weights: Path, device: str = "cpu", score: float = SCORE) -> Predictor:
    """A detector that ``ndpp train-det`` trained.

    Args:
        config: The ``config.yaml`` of its folder, or the config that it was trained with.
        weights: A checkpoint.
        device: ``cpu`` or ``cuda``.
        score: Objects below it are left out, 0 to 1.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The config is no config, or of another model.
    """
    cfg = add_ndpp_config(get_cfg())
    merge_config(cfg, config)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.TIMM.WEIGHTS = device, str(weights), ""
    found = NDCheckpointer(nn.Module()).read(str(weights))
    if NORM_RULES in found:  # a run that was calibrated decided which norms it keeps
        cfg.MODEL.NDPP.RULES.update(found[NORM_RULES])
    cfg.MODEL.NDPP.CALIBRATE = False
    network = build_model(cfg).eval()
    load_own(network, {name: torch.as_tensor(value) for name, value in found["model"].items()}, weights, config)
    return Predictor(network, cfg, read_class_names(config.parent), score)


class Predictor:
    """A detector with its weights.

    Args:
        network: In evaluation mode.
        cfg: Its configuration.
        classes: Names by class number; a number stands for itself where there are fewer.
        score: Objects below it are left out, 0 to 1.
    """

    def __init__(self, network: nn.Module, cfg: CfgNode, classes: tuple[str, ...], score: float = SCORE) -> None:
        self._network = fold_ndpp(network) if any(nd_layers(network)) else network
        self._sizes = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        self._resize = transforms.ResizeShortestEdge(*self._sizes)
        self._bgr = cfg.INPUT.FORMAT == "BGR"
        self._score, self._classes = score, classes

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Detections:
        """Predicts.

        Args:
            image: (H, W, 3) uint8, RGB.

        Raises:
            ValueError: The image is too thin to be resized.
        """
        check_thickness(image.shape[0], image.shape[1], *self._sizes)
        pixels = image[:, :, ::-1] if self._bgr else image
        resized = self._resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1), dtype=np.float32))
        found = self._network([{"image": tensor, "height": image.shape[0], "width": image.shape[1]}])[0]["instances"]
        found = found.to("cpu")
        return Detections(image, found[found.scores >= self._score], self._classes)


def _encoded(masks_NHW: np.ndarray) -> list[dict[str, Any]]:
    from pycocotools import mask as coco_mask

    encoded: list[Any] = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks_NHW]
    return [{"size": list(entry["size"]), "counts": entry["counts"].decode("ascii")} for entry in encoded]
