"""Segmentors and their data sets as what shifts are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ndpp_dense import fold_ndpp, nd_layers
from ndpp_dense.integrations.mmengine.zoo import read_words, zoo_options
from ndpp_dense.integrations.mmseg.run_config import build_config
from ndpp_dense.robustness.shift.models import evenly, file_facts
from ndpp_dense.robustness.shift.segmentation import UNLABELLED, SegmentationTask
from ndpp_dense.robustness.shift.task import Subject, SubjectRequest
from ndpp_dense.zoo import load_index
from ndpp_dense.zoo.index import SCHEME

__all__ = ["open_segmentor", "open_subject"]

_STRIDE = 8  # of the DeepLabv3s of this package


def open_segmentor(
    weights: str,
    *,
    config: str | None = None,
    data: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    limit: int | None = None,
) -> Subject:
    """A segmentor with the images of its test set, at the size at which it sees them.

    Args:
        weights: File that MMEngine reads, or ``ndpp://NAME``.
        config: Name or path of a config; None takes that of the row in the model zoo.
        data: Folder of the data set; None for what the config names by itself.
        overrides: ``KEY=VALUE`` words, keys dotted.
        device: ``cpu`` or ``cuda``.
        limit: Take so many images, spread evenly; None takes all.

    Raises:
        FileNotFoundError: Config, weights or data are missing.
        ValueError: Settings are faulty, or nothing is named to take the config from.
    """
    chosen = read_words(overrides)
    if weights.startswith(SCHEME):
        row = load_index().find(weights)
        config, chosen = config or row.config, {**zoo_options(row), **chosen}
    if config is None:
        raise ValueError(f"{weights}: name the config that these weights were trained with.")
    built = build_config(config, dataset=data, options=chosen)
    init_default_scope(built.get("default_scope", "mmseg"))
    import mmseg.datasets
    import mmseg.models  # noqa: F401  (both register what configs name)

    network = MODELS.build(built.model)
    load_checkpoint(network, weights, map_location="cpu", strict=True)
    images = SegmentationImages(DATASETS.build(built.test_dataloader.dataset), limit)
    facts = {"config": config, "options": chosen, "data": str(data), **file_facts(weights)}
    task = SegmentationTask(images.num_classes)
    return Subject(Path(config).stem, Segmentor(network.to(device).eval()), images, task, _STRIDE, facts)


def open_subject(request: SubjectRequest) -> Subject:
    """:func:`open_segmentor` with what was asked for."""
    given: dict[str, Any] = {"config": request.config, "data": request.data, "overrides": request.overrides}
    return open_segmentor(request.weights, device=request.device, limit=request.limit, **given)


class Segmentor:
    """A network of MMSegmentation that takes pictures as its pipeline reads them.

    Args:
        network: In evaluation mode; ND++ layers are folded.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network: Any = fold_ndpp(network) if any(nd_layers(network)) else network

    @torch.no_grad()
    def __call__(self, pictures: Tensor | Sequence[Tensor]) -> list[np.ndarray]:
        """The label map ``(H, W)`` of each picture ``(3, H, W)``, BGR from 0 to 255."""
        samples = []
        for picture in pictures:
            size = tuple(picture.shape[1:])
            sample = SegDataSample()
            sample.set_metainfo({"img_shape": size, "ori_shape": size, "pad_shape": size})
            samples.append(sample)
        found = self._network.test_step({"inputs": list(pictures), "data_samples": samples})
        return [answer.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(np.int64) for answer in found]


class SegmentationImages:
    """The images of a data set of MMSegmentation with their labels.

    Args:
        dataset: With the pipeline of its tests.
        limit: Take so many, spread evenly; None takes all.
    """

    def __init__(self, dataset: Any, limit: int | None = None) -> None:
        self._dataset = dataset
        self._chosen = evenly(len(dataset), limit)
        self._ignored = getattr(dataset, "ignore_index", 255)
        self.num_classes = len(dataset.metainfo["classes"])

    def __len__(self) -> int:
        """Number of images."""
        return len(self._chosen)

    def __getitem__(self, number: int) -> tuple[Tensor, np.ndarray | None]:
        """A picture and its labels, at the picture's size."""
        sample = self._dataset[self._chosen[number]]
        picture, labels = sample["inputs"], sample["data_samples"].get("gt_sem_seg")
        if labels is None:
            return picture, None
        map_HW = labels.data.squeeze(0).numpy().astype(np.int64)
        map_HW = np.where((map_HW == self._ignored) | (map_HW >= self.num_classes), UNLABELLED, map_HW)
        return picture, _resized(map_HW, tuple(picture.shape[1:]))


def _resized(labels_HW: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The nearest label at each pixel of a map of another size."""
    if labels_HW.shape == size:
        return labels_HW
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, labels_HW.shape, strict=True))
    return labels_HW[rows[:, None], columns[None, :]]
