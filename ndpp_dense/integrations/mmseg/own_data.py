"""A configuration for any folder of images and labels, and the data set that reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ndpp_dense.datasets.label_folders import find_label_folder, read_class_names

__all__ = ["LabelFolderDataset", "use_folder"]

_LOADERS = {"train_dataloader": "train", "val_dataloader": "val", "test_dataloader": "val"}
_EVALUATORS = ("val_evaluator", "test_evaluator")


@DATASETS.register_module()
class LabelFolderDataset(BaseSegDataset):
    """Images and labels of a folder.

    Args:
        classes: Their names, that of label 0 first.
        **kwargs: As for BaseSegDataset.
    """

    def __init__(self, classes: Sequence[str], **kwargs: Any) -> None:
        super().__init__(metainfo={"classes": tuple(classes)}, reduce_zero_label=False, **kwargs)


def use_folder(config: Config, folder: str, classes: str) -> list[str]:
    """Lets a configuration train and evaluate on a folder, whatever its layout.

    Args:
        config: Changed in place: data sets, classes of the heads, the label to ignore wherever it counts.
        folder: See :func:`ndpp_dense.datasets.label_folders.find_label_folder`.
        classes: File with their names, one a line.

    Returns:
        Lines on what was found.

    Raises:
        FileNotFoundError: Folder, layout or file is missing.
        ValueError: Names or labels are faulty, or there is nothing to evaluate on.
    """
    names = read_class_names(Path(classes))
    found = find_label_folder(Path(folder), len(names))
    if "val" not in found.prefixes:
        raise ValueError(
            f"--dataset {folder}: there are images for training ({found.prefixes['train'][0]}) and none to evaluate "
            "on: put some into a folder of the same kind named val."
        )
    for key, split in _LOADERS.items():
        loader = config.get(key)
        if loader:
            images, labels = found.prefixes[split]
            loader.dataset = ConfigDict(
                type="LabelFolderDataset",
                classes=names,
                data_root=folder,
                data_prefix={"img_path": images, "seg_map_path": labels},
                img_suffix=found.image_suffix,
                seg_map_suffix=found.label_suffix,
                ignore_index=found.ignore_index,
                pipeline=[_with_ignored(step, len(names), found.ignore_index) for step in _pipeline(loader.dataset)],
            )
    for head in _heads(config.model):
        head.update(num_classes=len(names), ignore_index=found.ignore_index)
    preprocessor = config.model.get("data_preprocessor")
    if preprocessor:
        preprocessor.seg_pad_val = found.ignore_index
    for key in _EVALUATORS:
        for evaluator in _listed(config.get(key)):
            evaluator.ignore_index = found.ignore_index
    return [f"{folder}: {found}", f"{len(names)} classes: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"]


def _pipeline(dataset: Any) -> list[Any]:
    """The steps of a data set, also of one inside another."""
    while "pipeline" not in dataset and "dataset" in dataset:
        dataset = dataset["dataset"]
    return list(dataset.get("pipeline", []))


def _with_ignored(step: Any, num_classes: int, ignored: int) -> Any:
    kind = str(step.get("type")).rpartition(".")[2]
    if kind == "CheckLabels":
        return ConfigDict({**step, "num_classes": num_classes, "ignore_index": ignored})
    return ConfigDict({**step, "ignore_index": ignored}) if kind == "RandomCrop" else step


def _heads(model: Mapping[str, Any]) -> list[Any]:
    return [head for key in ("decode_head", "auxiliary_head") for head in _listed(model.get(key))]


def _listed(value: Any) -> list[Any]:
    if not value:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
