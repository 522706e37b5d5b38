"""The model zoo in Detectron2: ``ndpp://NAME`` wherever Detectron2 takes a path, and models built from a row."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathHandler, PathManager
from torch import Tensor, nn

from ndpp_dense.config_files import packaged_config
from ndpp_dense.integrations.detectron2.config import add_ndpp_config
from ndpp_dense.redaction import redacted
from ndpp_dense.zoo.download import local_copy
from ndpp_dense.zoo.index import SCHEME
from ndpp_dense.zoo.rows import ZooModel
from ndpp_dense.zoo.views import torch_view

__all__ = [
    "AddressHandler",
    "ZooHandler",
    "build_zoo_model",
    "evaluate_zoo_model",
    "register_zoo",
    "run_blank",
    "zoo_config",
]


class ZooHandler(PathHandler):
    """Stands behind ``ndpp://NAME``: a local file with the weights, fetched, verified and unpacked."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(torch_view(path))

    def _exists(self, path: str, **kwargs: Any) -> bool:
        from ndpp_dense.zoo import load_index

        return path.removeprefix(SCHEME) in load_index().models

    _isfile = _exists

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        if "w" in mode or "a" in mode or "+" in mode:
            raise ValueError(f"{path}: the model zoo is read only.")
        return open(self._get_local_path(path), mode, buffering)  # noqa: SIM115 (the caller closes it)


class AddressHandler(PathHandler):
    """Stands behind ``http://`` and ``https://``: Detectron2's own takes no user, and logs addresses whole."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["http://", "https://", "ftp://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(local_copy(path))

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return True  # else said where it is fetched

    _exists = _isfile

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        if "w" in mode or "a" in mode or "+" in mode:
            raise ValueError(f"{redacted(path)} is read only.")
        return open(self._get_local_path(path), mode, buffering)  # noqa: SIM115 (the caller closes it)


def register_zoo() -> None:
    """Lets Detectron2's ``PathManager`` resolve ``ndpp://`` and web addresses. Safe to call again."""
    PathManager.register_handler(ZooHandler(), allow_override=True)
    PathManager.register_handler(AddressHandler(), allow_override=True)


def zoo_config(model: ZooModel, device: str) -> CfgNode:
    """The configuration of a row, without weights and without a look at data sets.

    Args:
        model: A row of framework ``detectron2``.
        device: ``cpu`` or ``cuda``.
    """
    from ndpp_dense.integrations.detectron2.run_config import merge_config

    cfg = add_ndpp_config(get_cfg())
    merge_config(cfg, packaged_config(model.config), model.overrides)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = device, ""
    cfg.freeze()
    return cfg


def build_zoo_model(model: ZooModel, device: str = "cpu") -> nn.Module:
    """The model of a row in evaluation mode, with random weights."""
    return build_model(zoo_config(model, device)).eval()


def run_blank(network: nn.Module, image: Tensor) -> None:
    """Runs a network of :func:`build_zoo_model` on one image ``(3, H, W)``, for what counts operations."""
    network([{"image": image, "height": image.shape[1], "width": image.shape[2]}])


def evaluate_zoo_model(model: ZooModel, weights: dict[str, Any], data: str | None, output: Path) -> dict[str, float]:
    """Evaluates weights on the data of their row.

    Args:
        model: The row.
        weights: State dictionary.
        data: Folder with ``annotations/val.json`` and ``images/val``; None for what the config names by itself.
        output: Folder for what the evaluation writes.

    Returns:
        Figures by name, such as ``segm/AP``.
    """
    from ndpp_dense.integrations.detectron2.evaluation import evaluate
    from ndpp_dense.integrations.detectron2.run_config import build_config
    from ndpp_dense.zoo.weights import load_into

    flags = []
    if data is not None:
        folder = Path(data)
        flags = [f"{folder.name}_val={folder / 'annotations' / 'val.json'}:{folder / 'images' / 'val'}"]
        flags += [f"{folder.name}_train={folder / 'annotations' / 'train.json'}:{folder / 'images' / 'train'}"]
    cfg, _ = build_config(
        str(packaged_config(model.config)), datasets=flags, device="cpu", output=str(output), overrides=model.overrides
    )
    network = build_model(cfg).eval()
    load_into(network, weights, model.name)
    found = evaluate(cfg, network)
    return {f"{task}/{name}": float(value) for task, values in found.items() for name, value in values.items()}
