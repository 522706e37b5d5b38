"""Show what whitening does in each layer of a model: spectra, condition numbers, filters, statistics that lag.

Examples::

    ndpp inspect mask_rcnn_ndpp_demo
    ndpp inspect output/mask_rcnn_ndpp_small
    ndpp inspect output/resnet18_ndpp_small/best.pth --output look
    ndpp inspect resnet50 --images photographs

MODEL is a name of the model zoo, an output folder (its newest checkpoint), a file of weights, or a backbone. A backbone
is converted with the preset ``fast`` and gets its statistics from pictures: those of --images, or generated ones. The
output folder gets inspect.html and inspect.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ndpp_dense.cli.output import check_folder, say

if TYPE_CHECKING:
    from ndpp_dense.reports.inspection import Inspection

__all__ = ["add_arguments", "run"]

_CLASSES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="of the model zoo, a folder of a run, a file of weights, or a backbone")
    add("--images", metavar="FOLDER", help="of pictures that a backbone's statistics are taken from")
    add("--output", metavar="FOLDER", help="default: the folder of the run, else output/inspect_<name>")


def run(args: argparse.Namespace) -> int:
    """Looks and writes."""
    check_folder("--output", args.output)
    from ndpp_dense.reports.inspection import write_inspection

    found, default = _looked_at(args.model, args.images)
    folder = Path(args.output) if args.output else default
    write_inspection(found, folder)
    faults = [f"{layer.name}: {layer.faults}" for layer in found.spectra if layer.faults]
    say(f"{found.name}: {len(found.spectra)} ND++ layers, {len(found.left)} left plain", *faults)
    say(f"inspect.html, inspect.json in {folder}")
    return 0


def _looked_at(word: str, images: str | None) -> tuple[Inspection, Path]:
    """What was found, and where to write it."""
    from ndpp_dense.reports.inspection import inspected
    from ndpp_dense.reports.run_report import plain_layers
    from ndpp_dense.zoo import SCHEME, load_checkpoint, load_index

    path, name = Path(word), word.removeprefix(SCHEME)
    if path.is_dir():
        file = _newest(path)
        source = f"The newest checkpoint of the folder: {file.name}."
        return inspected(path.resolve().name, source, _read(file), plain_layers(path)), path
    if path.is_file():
        return inspected(path.name, f"The weights of {path}.", _read(path), plain_layers(path.parent)), _own(path.stem)
    if word.startswith(SCHEME) or name in load_index().models:
        state = load_checkpoint(name).weights
        ordered = {entry: state[entry] for entry in sorted(state, key=_natural)}
        return inspected(name, f"Weights of the model zoo: {SCHEME}{name}.", ordered), _own(name)
    if "/" in word or path.suffix in (".pth", ".safetensors", ".pkl"):
        raise FileNotFoundError(f"{word}: there is no such file or folder.")
    return _backbone(word, images), _own(word)


def _own(name: str) -> Path:
    return Path("output") / f"inspect_{name}"


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _newest(folder: Path) -> Path:
    files = [file for pattern in ("*.pth", "*.safetensors") for file in folder.glob(pattern)]
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no checkpoint (*.pth, *.safetensors). Name a folder of a run, or a file."
        )
    return max(files, key=lambda file: file.stat().st_mtime_ns)


def _read(file: Path) -> dict:
    from ndpp_dense.weights.files import read_weights
    from ndpp_dense.weights.formats import unwrapped

    return dict(unwrapped(read_weights(file).entries))


def _backbone(name: str, images: str | None) -> Inspection:
    """A backbone with random weights, and statistics of pictures."""
    from ndpp_dense import WhiteningConfig, convert_to_ndpp
    from ndpp_dense.reports.inspection import inspected
    from ndpp_dense.reports.sample_pictures import take_statistics
    from ndpp_dense.weights.match import build_model

    try:
        network = build_model(name, _CLASSES)
    except ValueError as error:
        raise ValueError(
            f"no file, folder, name of the model zoo (`ndpp zoo list`) or backbone is called {name}. {error}"
        ) from error
    report = convert_to_ndpp(network, WhiteningConfig.fast("imagenet"))
    source = take_statistics(network, images)
    left = {record.name: record.reason for record in report.records if record.action == "left"}
    return inspected(name, f"Random weights, preset fast; {source}.", network.state_dict(), left)
