"""``ndpp zoo verify``: are the bytes right, and do the weights give the figures of their card?"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from ndpp_dense.cli.frameworks import framework_of
from ndpp_dense.cli.output import say
from ndpp_dense.zoo import Cache, ZooError, ZooIndex, ZooModel, load_index, locate

__all__ = ["add_parser"]

_NEXT = {"download": "fetches it", "info": "says how it was made: nobody offers it"}
_GENERATED = "generated"  # how the data of a row begin where the package makes them by itself


def add_parser(parts: Any) -> None:
    """Declares the command."""
    parser = parts.add_parser("verify", help="check the weights on this machine, and evaluate them on their data")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all that are on this machine")
    parser.add_argument("--hash-only", action="store_true", help="do not evaluate")
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=PATH", help="data of the model NAME; repeatable"
    )
    parser.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    """Checks, says what it found for each model, and fails if one is not as its card says."""
    index, cache, data = load_index(), Cache(), _data(args.data)
    for name in {*args.names, *data}:
        index.find(name)
    chosen = args.names or [name for name in sorted(index.models) if index.models[name].files]
    right = [_verified(index.models[name], index, cache, data.get(name), args) for name in chosen]
    failed = [name for name, fine in zip(chosen, right, strict=True) if not fine]
    say(
        f"{len(chosen) - len(failed)} of {len(chosen)} as they should be"
        + (f"; not: {', '.join(failed)}" * bool(failed))
    )
    return 1 if failed else 0


def _data(words: list[str]) -> dict[str, str]:
    found = dict(word.split("=", 1) for word in words if "=" in word)
    if len(found) != len(words):
        raise ZooError(f"--data takes NAME=PATH once for each name, not {' '.join(words)}.")
    return found


def _verified(model: ZooModel, index: ZooIndex, cache: Cache, data: str | None, args: argparse.Namespace) -> bool:
    file = model.weights
    if file is None:
        say(f"{model.name}: no weights yet")
        return not args.names
    path = locate(model, index, cache)
    if path is None:
        there = [place for place in (index.shipped(file), cache.blob(file.sha256)) if place.is_file()]
        state = f"DAMAGED: {', '.join(map(str, there))}" if there else "not on this machine"
        offered = "download" if file.urls or index.base_urls else "info"
        say(f"{model.name}: {state} (`ndpp zoo {offered} {model.name}` {_NEXT[offered]})")
        return not args.names and not there
    say(f"{model.name}: {path} has the right bytes")
    if args.hash_only:
        return True
    if data is None and not model.data.startswith(_GENERATED):
        say(f"{model.name}: not evaluated: give its data with --data {model.name}=PATH ({model.data})")
        return True
    return _evaluated(model, data)


def _evaluated(model: ZooModel, data: str | None) -> bool:
    from ndpp_dense.zoo import load_checkpoint

    with tempfile.TemporaryDirectory() as output:
        weights = load_checkpoint(model.name).weights
        found = framework_of(model).evaluate_zoo_model(model, weights, data, Path(output))
    fine = True
    for metric in model.metrics:
        if metric.source != "measured":
            continue
        value = found.get(metric.name, float("nan"))
        same = abs(value - metric.value) <= metric.tolerance
        fine = fine and same
        verdict = "as on the card" if same else "NOT as on the card"
        say(f"{model.name}: {metric.name} {value:.2f}, card {metric.value:.2f} +- {metric.tolerance:g}: {verdict}")
    return fine
