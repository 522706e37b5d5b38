"""From a checkpoint of a training run to a file and a row of the model zoo."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ndpp_dense.atomic_file import replacing
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.zoo.index import ZooIndex, checkpoints_folder, write_index
from ndpp_dense.zoo.packing import pack
from ndpp_dense.zoo.pages import write_pages
from ndpp_dense.zoo.rows import ZooFile, ZooModel
from ndpp_dense.zoo.weights import FACTS

__all__ = ["add_row", "write_weights"]


def write_weights(
    model: ZooModel,
    weights: Mapping[str, Tensor],
    layers: Mapping[str, WhiteningConfig],
    index: ZooIndex,
    *,
    folder: Path | None = None,
    urls: tuple[str, ...] = (),
) -> ZooModel:
    """Writes weights as a packed safetensors file.

    Args:
        model: Their row, without files.
        weights: State dictionary; nothing else of a checkpoint is kept.
        layers: Configuration of each ND++ layer, by name.
        index: Beside which the file goes.
        folder: Where the file goes instead, for one that is too large to be kept with the package.
        urls: Where it will be offered.

    Returns:
        The row with the file.
    """
    import safetensors.torch

    counted = ".num_batches_tracked"  # which nothing needs
    packed, facts = pack({name: value for name, value in weights.items() if not name.endswith(counted)}, layers)
    facts |= {"name": model.name, "version": model.version, "config": model.config, "command": model.command}
    # One entry of metadata, sorted: the same weights make the same bytes.
    data = safetensors.torch.save(packed, {FACTS: json.dumps(facts, sort_keys=True)})
    name = f"{model.name}-{model.version}.safetensors"
    with replacing((folder or checkpoints_folder(index)) / name) as made, made.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    file = ZooFile(name, hashlib.sha256(data).hexdigest(), len(data), "safetensors", urls)
    return replace(model, files=(file,))


def add_row(model: ZooModel, index: ZooIndex) -> ZooIndex:
    """Puts a row into an index and writes it, with the pages that are generated from it.

    Args:
        model: Takes the place of a row of the same name.
        index: Which.

    Returns:
        The new index.
    """
    before = index.models.get(model.name)
    for file in set(before.files if before else ()) - set(model.files):
        index.shipped(file).unlink(missing_ok=True)  # superseded: nothing names it any more
    changed = ZooIndex(index.path, index.base_urls, {**index.models, model.name: model})
    write_index(changed)
    write_pages(changed)
    return changed
