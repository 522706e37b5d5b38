"""Detectors and their data sets as what shifts are measured on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, transforms
from detectron2.modeling import build_model
from detectron2.structures import BoxMode, Instances
from torch import Tensor, nn

from ndpp_dense import fold_ndpp, nd_layers
from ndpp_dense.integrations.detectron2.checkpoint import NDCheckpointer
from ndpp_dense.integrations.detectron2.mapper import read_pixels
from ndpp_dense.integrations.detectron2.run_config import build_config
from ndpp_dense.robustness.shift.detection import Boxes, DetectionTask
from ndpp_dense.robustness.shift.models import evenly, file_facts
from ndpp_dense.robustness.shift.task import Subject, SubjectRequest
from ndpp_dense.zoo import load_index
from ndpp_dense.zoo.index import SCHEME

__all__ = ["open_detector", "open_subject"]

_log = logging.getLogger(__name__)


def open_detector(
    weights: str,
    *,
    config: str | None = None,
    datasets: Sequence[str] = (),
    overrides: Sequence[str] = (),
    device: str = "cpu",
    limit: int | None = None,
    score: float = 0.5,
) -> Subject:
    """A detector with the images of its first test set, at the size at which it sees them.

    Args:
        weights: File that Detectron2 reads, or ``ndpp://NAME``.
        config: Name or path of a config; None takes that of the row in the model zoo.
        datasets: ``NAME=JSON:IMAGES`` values, see :func:`ndpp_dense.integrations.detectron2.run_config.build_config`.
        overrides: Keys and values in turn.
        device: ``cpu`` or ``cuda``.
        limit: Take so many images, spread evenly; None takes all.
        score: Boxes below it do not count for agreement.

    Raises:
        FileNotFoundError: Config, weights or data are missing.
        ValueError: Settings are faulty, or nothing is named to take the config from.
    """
    if weights.startswith(SCHEME):
        row = load_index().find(weights)
        config, overrides = config or row.config, [*row.overrides, *overrides]
    if config is None:
        raise ValueError(f"{weights}: name the config that these weights were trained with.")
    cfg, remarks = build_config(
        config, datasets=datasets, device=device, overrides=[*overrides, "MODEL.WEIGHTS", weights]
    )
    for line in remarks:
        _log.warning("%s", line)
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: give images to measure on, --dataset NAME_val=JSON:IMAGES.")
    network = build_model(cfg).eval()
    NDCheckpointer(network).load(cfg.MODEL.WEIGHTS)
    images = DetectionImages(cfg, limit)
    facts = {"config": config, "overrides": list(overrides), "data": cfg.DATASETS.TEST[0], **file_facts(weights)}
    return Subject(Path(config).stem, Detector(network, cfg), images, DetectionTask(score), 32, facts)


def open_subject(request: SubjectRequest) -> Subject:
    """:func:`open_detector` with what was asked for."""
    given: dict[str, Any] = {"config": request.config, "datasets": request.datasets, "overrides": request.overrides}
    return open_detector(request.weights, device=request.device, limit=request.limit, score=request.score, **given)


class Detector:
    """A network of Detectron2 that takes pictures as they are.

    Args:
        network: In evaluation mode; ND++ layers are folded.
        cfg: Its configuration.
    """

    def __init__(self, network: nn.Module, cfg: Any) -> None:
        self._network = fold_ndpp(network) if any(nd_layers(network)) else network
        self._bgr = cfg.INPUT.FORMAT == "BGR"

    @torch.no_grad()
    def __call__(self, pictures: Tensor | Sequence[Tensor]) -> list[Boxes]:
        """The boxes in each picture ``(3, H, W)``, RGB from 0 to 255."""
        inputs = [
            {"image": (p.flip(0) if self._bgr else p).float(), "height": p.shape[1], "width": p.shape[2]}
            for p in pictures
        ]
        found: list[Instances] = [answer["instances"].to("cpu") for answer in self._network(inputs)]
        return [
            Boxes(f.pred_boxes.tensor.double().numpy(), f.pred_classes.numpy(), f.scores.double().numpy())
            for f in found
        ]


class DetectionImages:
    """The images of a configuration's first test set with their boxes; crowds are left out.

    Args:
        cfg: Configuration.
        limit: Take so many, spread evenly; None takes all.
    """

    def __init__(self, cfg: Any, limit: int | None = None) -> None:
        records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
        self._records = [records[number] for number in evenly(len(records), limit)]
        self._resize = transforms.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._records)

    def __getitem__(self, number: int) -> tuple[Tensor, Boxes | None]:
        """A picture and its objects; None where it has no annotations."""
        record = self._records[number]
        pixels = read_pixels(record["file_name"], "RGB")
        resize = self._resize.get_transform(pixels)
        picture = torch.from_numpy(np.ascontiguousarray(resize.apply_image(pixels).transpose(2, 0, 1)))
        if "annotations" not in record:
            return picture, None
        known = [entry for entry in record["annotations"] if not entry.get("iscrowd", 0)]
        edges: Any = [BoxMode.convert(entry["bbox"], entry["bbox_mode"], BoxMode.XYXY_ABS) for entry in known]
        scale = np.array([picture.shape[2] / pixels.shape[1], picture.shape[1] / pixels.shape[0]] * 2)
        boxes = Boxes.labelled(np.reshape(edges, (-1, 4)) * scale, [entry["category_id"] for entry in known])
        return picture, boxes
