"""Names of the categories of a run, in its folder: a checkpoint has their numbers only."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from ndpp_dense.atomic_file import replacing

__all__ = ["read_class_names", "write_class_names"]

_FILE = "classes.txt"


def write_class_names(cfg: CfgNode) -> None:
    """Writes ``classes.txt`` to ``OUTPUT_DIR``, one name a line, where a data set of the run has names."""
    sets = [MetadataCatalog.get(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)]
    names = next((found.thing_classes for found in sets if found.get("thing_classes")), None)
    if names and comm.is_main_process():
        with replacing(Path(cfg.OUTPUT_DIR) / _FILE) as made:
            made.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def read_class_names(folder: Path) -> tuple[str, ...]:
    """The names in a folder of a run; none where it has no such file."""
    file = folder / _FILE
    return tuple(file.read_text(encoding="utf-8-sig").splitlines()) if file.is_file() else ()
