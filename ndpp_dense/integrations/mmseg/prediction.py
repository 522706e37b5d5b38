"""Predicting with a segmentor of the model zoo or of a run, and drawing what it found."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ndpp_dense import fold_ndpp, nd_layers
from ndpp_dense.integrations.mmengine.reading import load_from_local
from ndpp_dense.integrations.mmengine.setting_checks import read_file
from ndpp_dense.integrations.mmseg.pictures import overlay
from ndpp_dense.integrations.mmseg.zoo import build_zoo_model, zoo_config
from ndpp_dense.training.prepare import NORM_RULES
from ndpp_dense.zoo import Checkpoint, load_into
from ndpp_dense.zoo.weights import load_own

__all__ = ["Predictor", "Segmentation", "of_run", "of_zoo"]

_OF_LABELS = ("LoadAnnotations", "LoadCheckedLabels", "CheckLabels")


@dataclass(frozen=True)
class Segmentation:
    """Classes of the pixels of an image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W), class numbers.
        classes: Names by class number.
        palette: RGB colours by class number.
    """

    image: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    palette: tuple[tuple[int, ...], ...]

    def picture(self) -> np.ndarray:
        """The image coloured by class, with a legend of the classes in it: (H', W', 3) uint8, RGB."""
        return overlay(self.image, self.labels, self.classes, self.palette)

    def record(self) -> dict[str, Any]:
        """Share of each class, and the labels by rows as pairs of run length and class."""
        flat = self.labels.ravel()
        starts = np.flatnonzero(np.diff(flat, prepend=-1))
        lengths = np.diff(np.append(starts, len(flat)))
        runs = [[int(length), int(flat[start])] for length, start in zip(lengths, starts, strict=True)]
        height, width = self.labels.shape
        shares = {name: round(share, 4) for name, share in self._shares().items()}
        return {"height": height, "width": width, "classes": list(self.classes), "shares": shares, "runs": runs}

    def summary(self) -> str:
        """The most frequent classes."""
        ordered = sorted(self._shares().items(), key=lambda entry: -entry[1])
        return ", ".join(f"{share:.0%} {name}" for name, share in ordered[:4] if share > 0)

    def _shares(self) -> dict[str, float]:
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return dict(zip(self.classes, (counts / self.labels.size).tolist(), strict=True))


def of_zoo(checkpoint: Checkpoint, device: str = "cpu", score: float = 0.0) -> Predictor:
    """A segmentor of the model zoo.

    Args:
        checkpoint: Its row and weights, as ``ndpp_dense.load_checkpoint`` returns them.
        device: ``cpu`` or ``cuda``.
        score: Unused: every pixel gets its likeliest class.
    """
    row = checkpoint.model
    network = build_zoo_model(row, device)
    load_into(network, checkpoint.weights, row.name)
    return Predictor(network, zoo_config(row), row.classes)


def of_run(config: Path, weights: Path, device: str = "cpu", score: float = 0.0) -> Predictor:
    """A segmentor that ``ndpp train-seg`` trained.

    Args:
        config: The Python config that it was trained with, which is run; one of its folder holds all settings.
        weights: A checkpoint.
        device: ``cpu`` or ``cuda``.
        score: Unused.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The config is no config, or of another model.
    """
    settings = read_file(config)
    content = load_from_local(str(weights))
    if settings.model.get("backbone", {}).get("init_cfg"):
        settings.model.backbone.init_cfg = None
    ndpp = settings.model.get("ndpp")
    if ndpp and ndpp.get("calibrate"):  # a run that was calibrated decided which norms it keeps
        ndpp.update(calibrate=False, rules={**(ndpp.get("rules") or {}), **content.get(NORM_RULES, {})})
    init_default_scope(settings.get("default_scope", "mmseg"))
    import mmseg.models  # noqa: F401  (registers them)

    network = MODELS.build(settings.model).to(device).eval()
    load_own(network, content.get("state_dict", content), weights, config)
    meta = (content.get("meta") or {}).get("dataset_meta") or {}
    heads = network.decode_head if isinstance(network.decode_head, nn.ModuleList) else [network.decode_head]
    count: Any = heads[-1].num_classes
    classes = tuple(map(str, meta.get("classes") or range(count)))
    return Predictor(network, settings, classes)


class Predictor:
    """A segmentor with its weights.

    Args:
        network: In evaluation mode.
        config: Its configuration.
        classes: Names by class number.
    """

    def __init__(self, network: nn.Module, config: Config, classes: tuple[str, ...]) -> None:
        init_default_scope(config.get("default_scope", "mmseg"))
        self._network = fold_ndpp(network) if any(nd_layers(network)) else network
        steps = [step for step in config.test_dataloader.dataset.pipeline if step["type"] not in _OF_LABELS]
        steps[0] = {"type": "LoadImageFromNDArray"}
        self._pipeline = Compose(steps)
        self._classes, self._palette = classes, _palette(config, classes)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Segmentation:
        """Predicts.

        Args:
            image: (H, W, 3) uint8, RGB.

        Raises:
            ValueError: The image cannot be resized.
        """
        try:
            sample: Any = self._pipeline({"img": np.ascontiguousarray(image[:, :, ::-1])})  # BGR, as files are read
        except cv2.error as error:
            raise ValueError("it is too thin: resized, one side would be 0") from error
        batch = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}
        found = self._network.test_step(batch)[0]  # pyright: ignore
        labels = found.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(np.int64)
        return Segmentation(image, labels, self._classes, self._palette)


def _palette(config: Any, classes: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Colours that the config's data set gives these classes, or some that are apart where it does not know them."""
    import mmseg.datasets  # noqa: F401  (registers them)
    from mmseg.registry import DATASETS

    meta = getattr(DATASETS.get(config.test_dataloader.dataset.type), "METAINFO", {})
    known = dict(zip(meta.get("classes", ()), meta.get("palette", ()), strict=True))
    if known.keys() >= set(classes):
        return tuple(tuple(known[name]) for name in classes)
    hues = [colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.75, 0.95) for index in range(len(classes))]
    return tuple(tuple(round(255 * part) for part in colour) for colour in hues)
