"""``ndpp infer``: pictures of what a model of the zoo, or of a run, finds."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ndpp_dense.atomic_file import replacing
from ndpp_dense.cli.frameworks import predictor_of
from ndpp_dense.cli.images import VIDEOS, Video, images_in, save_image, write_video
from ndpp_dense.cli.launching import chosen_device
from ndpp_dense.cli.output import check_folder, say
from ndpp_dense.zoo import SCHEME, load_index

__all__ = ["add_arguments", "run"]

_WEIGHTS = "of the model zoo (`ndpp zoo list`), or a checkpoint of your own run"
_CONFIG = "of --weights FILE; default: the config.yaml beside it, which train-det writes"
_OF_FILES = (".pth", ".pt", ".pkl", ".safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    parser.add_argument("input", type=Path, metavar="IMAGE|FOLDER|VIDEO")
    parser.add_argument("--weights", required=True, metavar="NAME|FILE", help=_WEIGHTS)
    parser.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    parser.add_argument("--output", type=Path, default=Path("output/infer"), metavar="DIR", help="folder for pictures")
    parser.add_argument("--json", action="store_true", help="write what was found as JSON too")
    parser.add_argument("--score", type=float, default=0.5, help="leave out objects below it (0 to 1)")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU, else cpu")


def run(args: argparse.Namespace) -> int:
    """Predicts and draws."""
    check_folder("--output", args.output)
    if not 0 <= args.score <= 1:
        raise ValueError(f"--score {args.score} must be between 0 and 1.")
    is_video = args.input.is_file() and args.input.suffix.lower() in VIDEOS
    images, left_out = ([], "") if is_video else images_in(args.input)
    predictor = _own(args) if _is_file(args.weights) else _of_zoo(args)
    if is_video:
        _video(predictor, args)
        return 0
    if left_out:
        say(f"{args.input}: left out are {left_out}")
    return _images(predictor, images, args)


def _of_zoo(args: argparse.Namespace) -> Any:
    from ndpp_dense.zoo import load_checkpoint

    if args.config is not None:
        raise ValueError(f"--config {args.config} is for --weights FILE: {args.weights} has its own in the model zoo.")
    index = load_index()
    kind = predictor_of(index.find(args.weights))
    checkpoint = load_checkpoint(args.weights, index=index)
    return kind.of_zoo(checkpoint, chosen_device(args.device), args.score)


def _is_file(weights: str) -> bool:
    path = Path(weights)
    if "://" in weights and not weights.startswith(SCHEME):
        raise ValueError(f"--weights {weights}: download it first, and name the file with its --config.")
    return not weights.startswith(SCHEME) and (path.suffix in _OF_FILES or path.exists())


def _own(args: argparse.Namespace) -> Any:
    """What predicts with a file of the user's; a file alone does not say which network its weights are of."""
    from ndpp_dense.config_files import find_config
    from ndpp_dense.integrations.registry import framework_of_config

    weights = Path(args.weights)
    if not weights.is_file():
        what = "is a folder: name a checkpoint in it" if weights.is_dir() else "is not there"
        raise FileNotFoundError(f"--weights {weights} {what}. Names of the model zoo: `ndpp zoo list`.")
    config = find_config(str(args.config)) if args.config is not None else weights.parent / "config.yaml"
    if not config.is_file():
        code = sorted(weights.parent.glob("*.py"))  # not run unasked: weights may come with a stranger's
        found = f", such as --config {code[0]}" if code else ""
        raise ValueError(
            f"--weights {weights}: no config.yaml is beside it, as `ndpp train-det` writes it. Name the config that "
            f"it was trained with: --config FILE{found}."
        )
    record = framework_of_config(config)
    if not record.predictor:
        raise ValueError(f"--weights {weights}: {config} is of a classifier, which makes no pictures.")
    logging.getLogger("ndpp_dense").setLevel(logging.WARNING)
    return record.load(record.predictor).of_run(config, weights, chosen_device(args.device), args.score)


def _images(predictor: Any, images: list[Path], args: argparse.Namespace) -> int:
    """Goes on after an image that cannot be read or is too thin; returns the exit code, 1 where there was one."""
    from tqdm import tqdm

    from ndpp_dense.images.reading import read_image

    root = args.input if args.input.is_dir() else args.input.parent
    failed: list[str] = []
    for path in tqdm(images, disable=None if len(images) > 1 else True, unit="image"):
        try:
            image = np.asarray(read_image(path))
            found = _predicted(predictor, image, path)
        except (ValueError, FileNotFoundError) as error:
            failed.append(str(error))
            continue
        # With the suffix, so that a.jpg and a.png of one folder do not share a picture.
        target = args.output / path.relative_to(root).with_name(f"{path.name}.png")
        save_image(found.picture(), target)
        if args.json:
            _write_json(found.record(), target.with_suffix(".json"))
        say(f"{target}: {found.summary()}")
    if len(failed) == len(images):
        raise ValueError(failed[0] if len(failed) == 1 else f"none of {len(failed)} images: {'; '.join(failed)}")
    for message in failed:
        say(f"failed: {message}")
    if failed:
        say(f"{len(failed)} of {len(images)} images failed; the pictures of the others are in {args.output}")
    return 1 if failed else 0


def _predicted(predictor: Any, image: np.ndarray, path: Path) -> Any:
    try:
        return predictor(image)
    except ValueError as error:
        raise ValueError(f"{path} ({image.shape[1]} x {image.shape[0]} pixels): {error}") from error


def _video(predictor: Any, args: argparse.Namespace) -> None:
    from tqdm import tqdm

    video = Video.open(args.input)
    records: list[dict[str, Any]] = []

    def pictures() -> Iterator[np.ndarray]:
        for frame in tqdm(video, total=video.frames or None, disable=None, unit="frame"):
            found = predictor(frame)
            if args.json:
                records.append(found.record())
            yield found.picture()

    target = args.output / f"{args.input.stem}.mp4"
    count = write_video(pictures(), target, video.rate)
    if args.json:
        _write_json({"frames": records}, target.with_suffix(".json"))
    say(f"{target}: {count} frames")


def _write_json(content: dict[str, Any], path: Path) -> None:
    with replacing(path) as made:
        made.write_text(json.dumps(content) + "\n", encoding="utf-8")
