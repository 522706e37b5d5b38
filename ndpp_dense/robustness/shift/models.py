"""Classifiers and labelled images to measure: trained by ``ndpp pretrain``, or pretrained ones of timm."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ndpp_dense.conversion.fold import fold_ndpp
from ndpp_dense.layers.base import nd_layers
from ndpp_dense.redaction import redacted
from ndpp_dense.robustness.shift.classification import ClassificationTask
from ndpp_dense.robustness.shift.task import Subject, SubjectRequest
from ndpp_dense.zoo.cache import file_sha256
from ndpp_dense.zoo.index import SCHEME, load_index

__all__ = ["Classifier", "LabelledImages", "evenly", "file_facts", "open_classifier", "open_subject", "total_stride"]

_log = logging.getLogger(__name__)


class Classifier:
    """A network that takes pictures as they are, values from 0 to 1.

    Args:
        network: From normalised images to class scores; put into evaluation mode, ND++ layers are folded.
        mean: Of each channel.
        std: Of each channel.
        device: Where to run.
    """

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], device: str | torch.device = "cpu"
    ) -> None:
        network = network.eval().to(device)
        self.network = fold_ndpp(network) if any(nd_layers(network)) else network
        self.device = torch.device(device)
        self._mean = torch.tensor(mean, device=device).view(-1, 1, 1)
        self._std = torch.tensor(std, device=device).view(-1, 1, 1)

    @torch.no_grad()
    def __call__(self, pictures: Tensor | Sequence[Tensor]) -> list[np.ndarray]:
        """Class scores ``(classes,)`` of each picture ``(C, H, W)``; pictures must be of one size."""
        batch = pictures if isinstance(pictures, Tensor) else torch.stack(list(pictures))
        return list(self.network((batch.to(self.device) - self._mean) / self._std).float().cpu().numpy())


class LabelledImages:
    """Validation images, resized and cropped as for evaluation, with values from 0 to 1.

    Args:
        images: See :func:`ndpp_dense.pretrain.images.open_images`.
        transform: From a PIL image to ``(3, H, W)``.
        targets: Class number of the network by class number of the images; None where they are not the same classes.
        limit: Take so many, spread evenly; None takes all.
    """

    def __init__(self, images: Any, transform: Any, targets: Sequence[int] | None, limit: int | None = None) -> None:
        self._images, self._transform, self._targets = images, transform, targets
        self._chosen = evenly(len(images), limit)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._chosen)

    def __getitem__(self, number: int) -> tuple[Tensor, int | None]:
        """A picture and its class."""
        image, target = self._images.load(self._chosen[number])
        return self._transform(image), None if self._targets is None else self._targets[target]


def open_classifier(
    data: str | Path,
    *,
    config: str | None = None,
    model: str | None = None,
    weights: str = "",
    overrides: Sequence[str] = (),
    device: str | torch.device = "cpu",
    limit: int | None = None,
    name: str | None = None,
) -> Subject:
    """A classifier with the validation images of an ImageNet tree.

    Args:
        data: Folder or ``.tar`` file with ``train/CLASS/IMAGE`` and ``val/CLASS/IMAGE``.
        config: Config of ``ndpp pretrain``, by name or path, that the weights were trained with.
        model: Instead, a name of timm's, pretrained unless ``weights`` are given. Where it knows 1,000 classes and the
            images are of some of them (folders named ``n01440764``), these are what is compared.
        weights: File, or ``ndpp://NAME``.
        overrides: ``KEY=VALUE`` settings of the config.
        device: Where to run.
        limit: Take so many images, spread evenly; None takes all.
        name: For titles; None takes that of the config or model.

    Raises:
        FileNotFoundError: There are no such data, config or weights.
        ValueError: Neither or both of config and model are given, or settings and weights do not fit.
    """
    from timm.data.transforms_factory import create_transform

    from ndpp_dense.pretrain.images import open_images

    if (config is None) == (model is None):
        raise ValueError("give either a config of ndpp pretrain (with its weights) or the name of a model of timm.")
    _, images = open_images(data)
    network, shape = (
        _trained(str(config), overrides, weights, images.classes) if model is None else _of_timm(model, weights)
    )
    outputs = _outputs(network, shape["input_size"])
    targets = _targets(images.classes, outputs)
    if targets is None:
        _log.warning("The network has %d classes, other ones than the images: only agreement is measured.", outputs)
    transform = create_transform(
        shape["input_size"],
        is_training=False,
        interpolation=shape["interpolation"],
        crop_pct=shape["crop_pct"],
        mean=(0.0, 0.0, 0.0),  # black must be 0 at the border: the classifier normalises after the shift
        std=(1.0, 1.0, 1.0),
    )
    facts = {"config": str(config or model), "overrides": list(overrides), "data": str(data), **file_facts(weights)}
    classifier = Classifier(network, shape["mean"], shape["std"], device)
    pictures = LabelledImages(images, transform, targets, limit)
    title = name or (Path(config).stem if config else str(model))
    return Subject(title, classifier, pictures, ClassificationTask(), total_stride(network), facts)


def open_subject(request: SubjectRequest) -> Subject:
    """:func:`open_classifier` with what was asked for; the config of weights of the model zoo is that of their row.

    Raises:
        ValueError: No images are named.
    """
    if not request.data:
        raise ValueError("a classifier needs --data: a folder or .tar file with train/CLASS and val/CLASS.")
    config, overrides = request.config, request.overrides
    if request.weights.startswith(SCHEME) and not config and not request.model:
        row = load_index().find(request.weights)
        config, overrides = row.config, [*row.overrides, *overrides]
    given: dict[str, Any] = {"config": config, "model": request.model, "overrides": overrides}
    return open_classifier(request.data, weights=request.weights, device=request.device, limit=request.limit, **given)


def _trained(
    config: str, overrides: Sequence[str], weights: str, classes: Sequence[str]
) -> tuple[nn.Module, dict[str, Any]]:
    """A network of ndpp pretrain, and how its images are made."""
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    from ndpp_dense.pretrain.config_loading import load_config
    from ndpp_dense.pretrain.network import build_network, load_weights

    settings, _ = load_config(config, [*overrides, "weights="])
    if not weights:
        raise ValueError(f"{config}: name the weights, such as output/{Path(config).stem}/last.pth or ndpp://NAME.")
    network = build_network(settings, settings.num_classes or len(classes))
    load_weights(network, weights)
    return network, {
        "input_size": (3, settings.image_size, settings.image_size),
        "interpolation": "bilinear" if settings.interpolation == "random" else settings.interpolation,
        "crop_pct": settings.crop_pct,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
    }


def _of_timm(name: str, weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """A model of timm, and how its images are made."""
    import timm
    from timm.data.config import resolve_model_data_config

    from ndpp_dense.pretrain.network import load_weights

    if not timm.is_model(name.split(".")[0]):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) or "see timm.list_models()"
        raise ValueError(f"timm has no model {name!r}. Near: {near}.")
    try:
        network = timm.create_model(name, pretrained=not weights)
    except Exception as error:  # whatever the hub's client raises without a network
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(f"cannot get the weights of {name}: {reason}. Give a file of them with weights.") from error
    if weights:
        load_weights(network, weights)
    return network, resolve_model_data_config(network)


@torch.no_grad()
def _outputs(network: nn.Module, input_size: Sequence[int]) -> int:
    return int(network.eval()(torch.zeros(1, *input_size)).shape[-1])


def _targets(classes: Sequence[str], outputs: int) -> list[int] | None:
    """The network's class numbers by those of the images."""
    if outputs == len(classes):
        return list(range(outputs))
    if outputs == 1000:
        from timm.data.imagenet_info import ImageNetInfo

        number = {label: index for index, label in enumerate(ImageNetInfo("imagenet-1k").label_names())}
        if all(label in number for label in classes):
            return [number[label] for label in classes]
    return None


def total_stride(network: nn.Module) -> int:
    """Pixels of the input to a step of the last feature map, as far as the network says so; else 32."""
    info = getattr(network, "feature_info", None)
    return int(info[-1]["reduction"]) if isinstance(info, list) and info and "reduction" in info[-1] else 32


def evenly(count: int, limit: int | None) -> list[int]:
    """Numbers below ``count``, at most ``limit`` of them, spread evenly.

    Raises:
        ValueError: The limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit = {limit}: at least one image must be measured.")
    taken = count if limit is None else min(count, limit)
    return [number * count // taken for number in range(taken)]


def file_facts(weights: str) -> dict[str, Any]:
    """The name of a file of weights and the SHA-256 of its bytes; of the model zoo, the name alone."""
    path = Path(weights)
    if not weights or not path.is_file():
        return {"weights": redacted(weights)}
    return {"weights": path.name, "sha256": file_sha256(path)}
