"""``ndpp zoo publish``: from a checkpoint of a run to weights, a row of the index, and its card."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndpp_dense.cli.frameworks import framework_of
from ndpp_dense.cli.output import say
from ndpp_dense.config_files import find_config
from ndpp_dense.integrations.registry import FRAMEWORKS, framework_of_config
from ndpp_dense.zoo import Metric, ZooError, ZooIndex, ZooModel, load_index
from ndpp_dense.zoo.index import checkpoints_folder, index_path, read_content, write_index
from ndpp_dense.zoo.overrides import check_overrides
from ndpp_dense.zoo.pages import write_pages

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["add_parser"]

_TEXTS = ("task", "data", "budget", "licence", "command", "commit", "note")
_TOLERANCE = 0.05  # points that an evaluation on other hardware may be off, unless stated


def add_parser(parts: Any) -> None:
    """Declares the command."""
    parser = parts.add_parser(
        "publish", help="make weights and a row of the index from a checkpoint", description=__doc__
    )
    add = parser.add_argument
    add("checkpoint", nargs="?", type=Path, help="of a run; averaged weights are taken where it has them")
    add("--config", help="bare name of the config that it was trained with")
    add("--name", help="of the row; default: the config's")
    add("--framework", choices=FRAMEWORKS, help="default: what the config is for")
    add("--override", nargs="*", default=[], metavar="WORD", help="further words for the config")
    add("--metrics", nargs="*", default=[], metavar="NAME=VALUE|FILE", help="what the run reported; results.json")
    add("--keep", nargs="*", default=[], metavar="NAME", help="of the metrics in FILE, those that the card shows")
    add("--metric-data", default="", help="what the metrics were evaluated on")
    add("--tolerance", type=float, default=_TOLERANCE, help="how far a new evaluation may be off")
    add("--evaluate", nargs="?", const="", metavar="PATH", help="evaluate the written file, on the data in PATH")
    add("--classes", nargs="*", default=[], metavar="NAME")
    add("--image-size", nargs=2, type=int, metavar=("H", "W"), help="that GFLOPs are counted for")
    add("--seed", type=int)
    add("--folder", type=Path, help="write the weights there, not beside the index: the row names them by hash")
    add("--url", action="append", default=[], help="where the file will be offered; repeatable")
    add("--refresh", action="store_true", help="only write digest and generated pages anew, after an edit by hand")
    for name in _TEXTS:
        add(f"--{name}", default="")
    parser.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    """Publishes."""
    if args.refresh:
        return _refresh()
    if args.checkpoint is None or not args.config:
        raise ZooError("publish needs a CHECKPOINT and its --config, or --refresh.")
    from ndpp_dense.layers.base import nd_layers
    from ndpp_dense.zoo import load_into
    from ndpp_dense.zoo.publish import add_row, write_weights

    index = load_index()
    row = _row(args, index)
    framework = framework_of(row)
    weights, network = _weights(args.checkpoint), framework.build_zoo_model(row)
    load_into(network, weights, str(args.checkpoint))
    layers = {name: layer.config for name, layer in nd_layers(network)}
    metrics = tuple(_metric(name, value, args) for name, value in _reported(args).items())
    row = replace(row, params=_params(network), gflops=_gflops(network, row), metrics=metrics)
    row = write_weights(row, weights, layers, index, folder=args.folder, urls=tuple(args.url))
    (file,) = row.files
    if args.evaluate is not None:
        row = _evaluated(row, (args.folder or checkpoints_folder(index)) / file.name, framework, args)
    add_row(row, load_index())  # as it is by now: evaluating may have taken long
    say(f"{row.name}: {file.name}, {file.size / 1e6:.2f} MB; index and pages written")
    return 0


def _row(args: argparse.Namespace, index: ZooIndex) -> ZooModel:
    config = find_config(args.config)
    framework = args.framework or framework_of_config(config).name
    name = args.name or config.stem
    before = index.models.get(name)
    texts: dict[str, Any] = {key: getattr(args, key) or (getattr(before, key) if before else "") for key in _TEXTS}
    check_overrides(args.override, "--override")
    lacking = [f"--{key}" for key in ("task", "data", "budget", "licence", "command") if not texts[key]]
    if lacking:
        raise ZooError(f"a card needs {', '.join(lacking)}.")
    return ZooModel(
        name=name,
        version=before.version + 1 if before and before.files else 1,
        framework=framework,
        config=config.stem,
        overrides=tuple(args.override),
        classes=tuple(args.classes) or (before.classes if before else ()),
        image_size=tuple(args.image_size or ()),
        seed=args.seed,
        **texts,
    )


def _refresh() -> int:
    """Writes digest and pages from the rows as they are; every field is checked."""
    path = index_path()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ZooError(f"{path} is no JSON: {error}.") from error
    index = read_content(content, path)
    write_index(index)
    write_pages(index)
    say(f"{path} and its pages written, {len(index.models)} rows")
    return 0


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    """Weights alone, averaged ones first: no optimizer, no random states."""
    from ndpp_dense.weights.files import read_weights

    return dict(read_weights(checkpoint).entries)


def _params(network: nn.Module) -> float:
    return round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 3)


def _reported(args: argparse.Namespace) -> dict[str, float]:
    """What the run reported: ``NAME=VALUE`` words, and files of results with names joined by ``/``."""
    found: dict[str, float] = {}
    for word in args.metrics:
        name, sign, value = word.partition("=")
        if not Path(word).is_file():
            if not sign:
                raise ZooError(f"--metrics {word!r} is neither a file nor NAME=VALUE.")
            found[name] = float(value)
            continue
        flat = dict(_flat(json.loads(Path(word).read_text(encoding="utf-8"))))
        chosen = args.keep or list(flat)
        absent = [name for name in chosen if name not in flat]
        if absent:
            raise ZooError(f"{word} has no {absent[0]!r}: it has {', '.join(flat)}.")
        found |= {name: flat[name] for name in chosen}
    return found


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)


def _metric(name: str, value: float, args: argparse.Namespace) -> Metric:
    return Metric(name, round(value, 4), args.metric_data or args.data, "measured", args.tolerance)


def _evaluated(row: ZooModel, path: Path, framework: Any, args: argparse.Namespace) -> ZooModel:
    """The row with what its own file gives in place of what the run reported."""
    from ndpp_dense.zoo.weights import read_verified

    with tempfile.TemporaryDirectory() as output:
        weights, _ = read_verified(path, row.files[0])
        found = framework.evaluate_zoo_model(row, weights, args.evaluate or None, Path(output))
    absent = [metric.name for metric in row.metrics if metric.name not in found]
    if absent:
        raise ZooError(f"the evaluation does not give {absent[0]!r}: it gives {', '.join(found)}.")
    pairs = [(metric, round(found[metric.name], 4)) for metric in row.metrics]
    return replace(row, metrics=tuple(replace(metric, value=value, trained=metric.value) for metric, value in pairs))


def _gflops(network: nn.Module, row: ZooModel) -> float | None:
    """Multiply-adds for one blank image of the row's size, in thousand millions."""
    if not row.image_size:
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ndpp_dense.conversion.fold import fold_ndpp
    from ndpp_dense.layers.base import nd_layers

    height, width = row.image_size
    image = torch.zeros(3, height, width)
    if any(nd_layers(network)):
        network = fold_ndpp(network)  # as it is used: else the product of weights and D counts too
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        framework_of(row).run_blank(network, image)
    return round(counter.get_total_flops() / 2e9, 4)
