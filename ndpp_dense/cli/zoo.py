"""``ndpp zoo``: what the model zoo has, fetching it, checking it, and cleaning up."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from fnmatch import fnmatchcase
from typing import Any

from ndpp_dense.cli import zoo_publish, zoo_verify
from ndpp_dense.cli.output import say, table
from ndpp_dense.zoo import Cache, ZooError, ZooIndex, ZooModel, load_index, resolve
from ndpp_dense.zoo.sources import addresses

__all__ = ["add_arguments", "run"]

_DAY = 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares its commands."""
    parts = parser.add_subparsers(dest="part", required=True, metavar="COMMAND")
    listing = parts.add_parser("list", help="names, figures, and what is on this machine")
    listing.add_argument("pattern", nargs="?", default="*", help="such as 'mask_rcnn*'")
    listing.add_argument("--weights", action="store_true", help="only those with weights")
    listing.set_defaults(call=_list)
    info = parts.add_parser("info", help="all that is known of a model")
    info.add_argument("name")
    info.set_defaults(call=_info)
    download = parts.add_parser("download", help="fetch weights and say where they are")
    download.add_argument("names", nargs="+", metavar="NAME")
    download.set_defaults(call=_download)
    path = parts.add_parser("path", help="print the path of weights, fetched if need be")
    path.add_argument("name")
    path.set_defaults(call=_path)
    prune = parts.add_parser("prune", help="remove from the cache what no model of the zoo asks for")
    prune.add_argument("--all", action="store_true", help="what they ask for too")
    prune.add_argument("--days", type=float, default=0.0, help="only files that have lain there for so long")
    prune.set_defaults(call=_prune)
    zoo_verify.add_parser(parts)
    zoo_publish.add_parser(parts)


def run(args: argparse.Namespace) -> int:
    """Calls the command that was named."""
    return args.call(args)


def _list(args: argparse.Namespace) -> int:
    index, cache = load_index(), Cache()
    rows = [("name", "task", "framework", "figures", "weights")]
    for name in sorted(index.models):
        model = index.models[name]
        if fnmatchcase(name, args.pattern) and (model.files or not args.weights):
            rows.append((name, model.task, model.framework, _figures(model), _state(model, index, cache)))
    if len(rows) == 1:
        raise ZooError(f"no name fits {args.pattern!r}. Names: {', '.join(sorted(index.models))}.")
    say(table(rows))
    return 0


def _figures(model: ZooModel) -> str:
    marks = [f"{metric.name} {metric.value:g}{'*' * (metric.source == 'published')}" for metric in model.metrics]
    return ", ".join(marks) + (" (*: published)" if any(mark.endswith("*") for mark in marks) else "")


def _state(model: ZooModel, index: ZooIndex, cache: Cache) -> str:
    """Where the weights are, by names alone: to read them all would take long."""
    file = model.weights
    if file is None:
        return "recipe only"
    size = f"{file.size / 1e6:.1f} MB"
    if index.shipped(file).is_file():
        return f"{size}, with the package"
    if cache.blob(file.sha256).is_file():
        return f"{size}, in the cache"
    return f"{size}, {'to fetch' if addresses(file, index) else 'not offered: hash and recipe'}"


def _info(args: argparse.Namespace) -> int:
    index = load_index()
    model = index.find(args.name)
    file = model.weights
    facts: dict[str, Any] = {
        "name": f"{model.name}, version {model.version}",
        "task": f"{model.task} ({model.framework})",
        "config": " ".join([model.config, *model.overrides]),
        "data": model.data,
        "classes": ", ".join(model.classes),
        "budget": model.budget,
        "figures": "; ".join(_figure(metric) for metric in model.metrics),
        "parameters": f"{model.params:.3f} M" if model.params is not None else "",
        "GFLOPs": f"{model.gflops:.3f} at {' x '.join(map(str, model.image_size))}" if model.gflops else "",
        "licence": model.licence,
        "trained by": model.command,
        "commit, seed": f"{model.commit}, {model.seed}" if model.commit else "",
        "weights": f"{file.name}, {file.size} bytes, {_state(model, index, Cache())}" if file else "none yet",
        "SHA-256": file.sha256 if file else "",
        "urls": " ".join(file.urls) if file else "",
        "needs": f"ndpp-dense >= {model.min_version}",
        "note": model.note,
    }
    say(*(f"{label:13} {value}" for label, value in facts.items() if value))
    return 0


def _figure(metric: Any) -> str:
    if metric.source == "published":
        return f"{metric.name} {metric.value:g} on {metric.data}, published in {metric.reference}"
    return f"{metric.name} {metric.value:.2f} on {metric.data}, measured here (tolerance {metric.tolerance:g})"


def _download(args: argparse.Namespace) -> int:
    _show_progress()
    for name in args.names:
        say(f"{name}: {resolve(name)}")
    return 0


def _path(args: argparse.Namespace) -> int:
    say(str(resolve(args.name)))
    return 0


def _prune(args: argparse.Namespace) -> int:
    if not 0 <= args.days < math.inf:
        raise ZooError(f"--days {args.days:g} must be 0 or more.")
    index, cache = load_index(), Cache()
    keep = set() if args.all else {file.sha256 for model in index.models.values() for file in model.files}
    removed = cache.prune(keep, args.days * _DAY)
    say(*(f"removed {path} ({size / 1e6:.1f} MB)" for path, size in removed))
    say(f"{len(removed)} files, {sum(size for _, size in removed) / 1e6:.1f} MB freed in {cache.home}")
    return 0


def _show_progress() -> None:
    """Lets the resolver say where it goes on and what failed."""
    logger = logging.getLogger("ndpp_dense.zoo")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.setLevel(logging.INFO)
