"""``ndpp infer``: pictures of what a model of the zoo finds."""

from __future__ import annotations

import argparse
import json
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

_OF_FILES = (".pth", ".pt", ".pkl", ".safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    parser.add_argument("input", type=Path, metavar="IMAGE|FOLDER|VIDEO")
    parser.add_argument("--weights", required=True, metavar="NAME", help="of the model zoo: `ndpp zoo list`")
    parser.add_argument("--output", type=Path, default=Path("output/infer"), metavar="DIR", help="folder for pictures")
    parser.add_argument("--json", action="store_true", help="write what was found as JSON too")
    parser.add_argument("--score", type=float, default=0.5, help="leave out objects below it (0 to 1)")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU, else cpu")


def run(args: argparse.Namespace) -> int:
    """Predicts and draws."""
    from ndpp_dense.zoo import load_checkpoint

    check_folder("--output", args.output)
    if not 0 <= args.score <= 1:
        raise ValueError(f"--score {args.score} must be between 0 and 1.")
    _check_name(args.weights)
    is_video = args.input.is_file() and args.input.suffix.lower() in VIDEOS
    images, left_out = ([], "") if is_video else images_in(args.input)
    index = load_index()
    kind = predictor_of(index.find(args.weights))
    checkpoint = load_checkpoint(args.weights, index=index)
    predictor = kind(checkpoint, chosen_device(args.device), args.score)
    if is_video:
        _video(predictor, args)
        return 0
    if left_out:
        say(f"{args.input}: left out are {left_out}")
    return _images(predictor, images, args)


def _check_name(weights: str) -> None:
    """A file alone does not say which network its weights are of."""
    path = Path(weights)
    if not weights.startswith(SCHEME) and ("://" in weights or path.suffix in _OF_FILES or path.exists()):
        raise ValueError(
            f"--weights {weights}: pictures are made with models of the model zoo, by their name (`ndpp zoo list`). To "
            "draw what weights of your own find, give them with their config: `ndpp train-det --eval-only --config "
            "CONFIG --weights FILE` (or train-seg) writes predictions.png; `ndpp zoo publish` gives them a name."
        )


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
