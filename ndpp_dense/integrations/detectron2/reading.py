"""What Detectron2 finds in the files of its model zoo, of Caffe2 and of pycls, read without running code from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ndpp_dense.weights.files import read_checkpoint, weights_in
from ndpp_dense.weights.formats import unwrapped

__all__ = ["as_detectron2", "check_proposals"]


def as_detectron2(content: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Arranges the content of a file as Detectron2's checkpointer has it.

    Args:
        content: See :func:`ndpp_dense.weights.files.read_checkpoint`.
        file: Its name, whose suffix tells the kind: ``.pkl`` without an author is of Caffe2, ``.pyth`` is of pycls.

    Returns:
        Weights under ``"model"``; where their names are to be matched, ``"matching_heuristics"``; and what else there
        was.

    Raises:
        ValueError: It holds no weights by name.
    """
    found, suffix = dict(content), Path(file).suffix
    if suffix == ".pkl" and not {"model", "__author__"} <= found.keys():
        weights = found.get("blobs", found)  # detectors have blobs, backbones are blobs
        found = _matched(weights, "Caffe2", lambda name: name.endswith("_momentum") or name == "weight_order")
    elif suffix == ".pyth":
        found = _matched(found.get("model_state"), "pycls", lambda name: name.endswith("num_batches_tracked"))
    elif "model" not in found:
        try:
            container = weights_in(found)[0]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}: {error}: name another.") from error
        found = {"model": found.pop(container), **found} if container else {"model": found}
    weights = found["model"]
    named = isinstance(weights, Mapping) and bool(weights)
    others = [name for name, value in weights.items() if not _is_array(value)] if named else list(content)
    if others or not named:
        raise ValueError(f"{file} holds no weights but {', '.join(map(str, others[:5])) or 'nothing'}: name another.")
    return {**found, "model": unwrapped(weights)}


def check_proposals(cfg: CfgNode) -> None:
    """Refuses files of proposals that hold more than plain data: Detectron2 unpickles them, and runs what they ask for.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file asks for more than plain data.
    """
    if cfg.MODEL.LOAD_PROPOSALS:
        for file in (*cfg.DATASETS.PROPOSAL_FILES_TRAIN, *cfg.DATASETS.PROPOSAL_FILES_TEST):
            read_checkpoint(PathManager.get_local_path(file))


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray | np.generic)


def _matched(weights: Any, author: str, dropped: Callable[[str], bool]) -> dict[str, Any]:
    named = weights if isinstance(weights, Mapping) else {}
    kept = {name: value for name, value in named.items() if not dropped(str(name))}
    return {"model": kept, "__author__": author, "matching_heuristics": True}
