"""The data sets of a configuration, looked at before a model is built."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from ndpp_dense.images.folders import find_images, is_hidden
from ndpp_dense.images.labels import check_palettes

__all__ = ["check_data", "check_pipelines"]

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_REMOTE = "://"
_SHOWN = 3
_ADVICE = (
    "Give the folder with --dataset FOLDER. Cityscapes comes from cityscapes-dataset.com (leftImg8bit and gtFine; its "
    "scripts make the files that end in _gtFine_labelTrainIds.png). Without any data: --config deeplabv3_ndpp_demo."
)


def check_pipelines(config: Config) -> None:
    """Lets every pipeline read and check images and labels as this package does, for training and for evaluation.

    Configs of others say LoadImageFromFile and LoadAnnotations, which clip deep images to white and cast labels.

    Args:
        config: Changed in place.
    """
    head = config.model.get("decode_head", {})
    head = head[-1] if isinstance(head, list | tuple) else head
    for dataset in _datasets(config):
        pipeline = dataset.get("pipeline", [])
        has_check = any(step.get("type") == "CheckLabels" for step in pipeline)
        steps: list[Any] = []
        for step in pipeline:
            steps.append(_checked(step, pipeline))
            if steps[-1]["type"] == "LoadCheckedLabels" and head.get("num_classes") and not has_check:
                numbers = {"num_classes": head["num_classes"], "ignore_index": head.get("ignore_index", 255)}
                steps.append(ConfigDict(type="CheckLabels", **numbers))
        if steps:
            dataset["pipeline"] = steps


def check_data(config: Config) -> None:
    """Checks that folders, images and labels are there, and says what of them is left out.

    Args:
        config: With the data sets as they will be built.

    Raises:
        FileNotFoundError: A folder is missing, or labels of images are.
        ValueError: A folder holds no images, or images in hidden folders.
    """
    seen: list[Any] = []
    for dataset in _datasets(config):
        root = dataset.get("data_root")
        if root is None or _REMOTE in str(root) or "data_prefix" not in dataset:
            continue
        for name, prefix in dataset["data_prefix"].items():
            if not (Path(root) / prefix).is_dir():
                raise FileNotFoundError(_missing(dataset, root, name, Path(root) / prefix))
        facts = {key: value for key, value in dataset.items() if key != "pipeline"}
        if facts not in seen:
            seen.append(facts)
            _check_files(dataset)
    roots = [loader.dataset.get("data_root") for loader in filter(None, map(config.get, _LOADERS[:2]))]
    if len({str(root) for root in roots}) > 1:
        _warn(f"training reads {roots[0]}, evaluation {roots[1]}: other folders. --dataset FOLDER gives both.")


def _datasets(config: Config) -> Iterator[Any]:
    for loader in filter(None, map(config.get, _LOADERS)):
        waiting = [loader.get("dataset")]
        while waiting:
            dataset = waiting.pop()
            if isinstance(dataset, Mapping):
                yield dataset
                waiting += [dataset.get("dataset"), *dataset.get("datasets", [])]


def _missing(dataset: Mapping[str, Any], root: str, name: str, folder: Path) -> str:
    what = f"{dataset['type']}: there is no folder {folder} (data_root {root!r}, data_prefix.{name})."
    return f"{what} {_ADVICE}"


def _checked(step: Any, pipeline: list[Any]) -> Any:
    plain = set(step) <= {"type", "to_float32", "backend_args"}
    if step.get("type") in ("LoadImageFromFile", "LoadCheckedImage") and (plain or "scale" in step):
        return ConfigDict({**step, "type": "LoadCheckedImage", "scale": _smallest_scale(pipeline)})
    if step.get("type") in ("LoadAnnotations", "mmseg.LoadAnnotations"):
        return ConfigDict({**step, "type": "LoadCheckedLabels"})
    return step


def _smallest_scale(pipeline: list[Any]) -> tuple[float, float] | None:
    """Width and height of the first resizing that keeps the sides' ratio, at its smallest."""
    for step in pipeline:
        if step.get("type") in ("Resize", "RandomResize") and step.get("keep_ratio") and step.get("scale"):
            least = step.get("ratio_range", (1.0, 1.0))[0] if step["type"] == "RandomResize" else 1.0
            width, height = step["scale"][:2] if not isinstance(step["scale"][0], list | tuple) else step["scale"][0]
            return width * least, height * least
    return None


def _check_files(dataset: Mapping[str, Any]) -> None:
    """Builds the set without its pipeline and compares what it lists with what there is."""
    from mmseg.registry import DATASETS

    built: Any = DATASETS.build({**dataset, "pipeline": [], "lazy_init": False, "serialize_data": False})
    records = [built.get_data_info(number) for number in range(len(built))]
    folder, suffix = Path(built.data_prefix["img_path"]), getattr(built, "img_suffix", "")
    if not records:
        raise FileNotFoundError(f"{folder} holds no image that ends in {suffix}{_others(folder, suffix)}. {_ADVICE}")
    images = [str(record["img_path"]) for record in records]
    hidden = [path for path in images if any(map(is_hidden, Path(path).relative_to(folder).parts))]
    if hidden:
        raise ValueError(
            f"{len(hidden)} of {len(images)} images in {folder} lie in hidden folders ({_first(hidden, folder)}), and "
            "MMSegmentation would take them too. Remove these folders."
        )
    labels = [str(record["seg_map_path"]) for record in records if record.get("seg_map_path")]
    absent = _absent(labels)
    if absent:
        place = Path(built.data_prefix["seg_map_path"])
        raise FileNotFoundError(
            f"{len(absent)} of {len(images)} images in {folder} have no labels in {place} (first: "
            f"{_first(absent, place)}). Add them, or remove the images."
        )
    check_palettes(labels)
    if not built.ann_file:
        _say_left_out(folder, suffix, images, "images")
        if labels:
            _say_left_out(Path(built.data_prefix["seg_map_path"]), built.seg_map_suffix, labels, "labels")


def _others(folder: Path, suffix: str) -> str:
    """Says how many images of other suffixes there are: MMSegmentation takes one, and tells capitals from small."""
    kinds = Counter(path.suffix for path in find_images(folder).files)
    if not kinds:
        return ""
    listed = ", ".join(f"{count} in {kind}" for kind, count in kinds.most_common(_SHOWN))
    most = kinds.most_common(1)[0][0]
    return (
        f", but {listed}: rename them to {suffix}, or set train_dataloader.dataset.img_suffix={most} (and those of "
        "val_dataloader and test_dataloader; seg_map_suffix for labels) by --cfg-options"
    )


def _absent(files: list[str]) -> list[str]:
    # One listing a folder: a look at every file takes minutes on network storage.
    listings: dict[str, set[str]] = {}
    absent = []
    for file in files:
        parent, name = os.path.split(file)
        if parent not in listings:
            listings[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        if name not in listings[parent]:
            absent.append(file)
    return absent


def _say_left_out(folder: Path, suffix: str, taken: list[str], what: str) -> None:
    found = [str(Path(place, name)) for place, _, names in os.walk(folder) for name in names]
    others = sorted(set(found) - set(map(str, map(Path, taken))))
    if what == "labels":  # of an image there may be more files than the labels
        others = [path for path in others if path.endswith(suffix)]
        reason = "have no image"
    else:
        reason = f"do not end in {suffix} or are hidden"
    if others:
        _warn(f"{len(others)} of {len(found)} files of {folder} {reason} and are left out ({_first(others, folder)}).")


def _first(paths: list[str], folder: Path) -> str:
    names = [os.path.relpath(path, folder) for path in sorted(paths)[:_SHOWN]]
    return ", ".join(names) + (", ..." if len(paths) > _SHOWN else "")


def _warn(text: str) -> None:
    if is_main_process():
        print_log(text, "current", logging.WARNING)
