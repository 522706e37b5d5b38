"""Compare ND++ with group and batch normalisation on real images: small Mask R-CNNs from scratch on cell nuclei.

The data folder holds annotations/{train,val}.json and images/{train,val}.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

from studies.engine import Column, Study

TEXT = """# ND++ against group and batch normalisation on cell nuclei

Mask R-CNN R18-FPN from scratch, 300 iterations of 4 images (short side 192) of the Data Science Bowl 2018 nuclei
(380 training, 120 validation images, one category), the same for every row: `mask_rcnn_{{bn,gn,ndpp}}_small.yaml`.
COCO AP on the validation images, by pycocotools. Written by `python tools/study.py nuclei table` from the JSON files in
`nuclei/`, one a run; the runs by `python tools/study.py nuclei run --data FOLDER`.

All methods start as Detectron2 starts them, but that ND++ starts residual branches at zero
(`MODEL.NDPP.ZERO_INIT_RESIDUAL`, on by default; the runs with False are in the last table). `paper` whitens with the
moments of a batch of four images, `fast` with averaged ones. With this start, both were tried at one learning rate.
Runs with `fast` as it was before, with larger blocks and five iterations, are in the last table.

Hardware: {hardware}. Code: {commits} (`+`: with edits).
"""
METHODS = {"bn": "batch norm", "gn": "group norm", "paper": "ND++ `paper`", "fast": "ND++ `fast`"}
NDPP = ("paper", "fast")
METRICS = {"mask AP": "segm/AP", "mask AP50": "segm/AP50", "box AP": "bbox/AP"}


def flags(data: Path) -> list[str]:
    """Return the ``--dataset`` values of the two splits."""
    return [f"nuclei_{s}={data / 'annotations' / s}.json:{data / 'images' / s}" for s in ("train", "val")]


def config(method: str) -> tuple[str, list[str]]:
    """Return config name and overrides of a method."""
    if method in NDPP:
        return "mask_rcnn_ndpp_small", ["MODEL.NDPP.PRESET", method]
    return f"mask_rcnn_{method}_small", []


def command(method: str, settings: list[str], rate: float, seed: int, data: Path, output: Path) -> list[str]:
    """Return the words that train one combination."""
    name, overrides = config(method)
    words = ["tools/train_net.py", "--config", name, "--device", "cpu", "--output", str(output)]
    words += [word for flag in flags(data) for word in ("--dataset", flag)]
    return [*words, *overrides, *settings, "SOLVER.BASE_LR", str(rate), "SEED", str(seed)]


def read(output: Path) -> tuple[dict[int, dict[str, float]], list[list[float]]]:
    """Return AP by iteration, and the losses."""
    file = output / "metrics.json"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    losses = [[line["iteration"] + 1, line["total_loss"]] for line in lines if "total_loss" in line]
    evaluated = [line for line in lines if "segm/AP" in line]
    # The evaluation after the last iteration is written with the number of the next one.
    found = {min(line["iteration"] + 1, losses[-1][0]): line for line in evaluated}
    return {k: {name: line[key] for name, key in METRICS.items()} for k, line in found.items()}, losses


def steps(data: Path, method: str) -> Callable[[], None]:
    """Return a function that does one training step; every method gets the same batches."""
    import torch
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from ndpp_dense.integrations.detectron2.loader import TrainData
    from ndpp_dense.integrations.detectron2.mapper import CheckedDatasetMapper
    from ndpp_dense.integrations.detectron2.run_config import build_config

    name, overrides = config(method)
    cfg, _ = build_config(name, datasets=flags(data), device="cpu", overrides=[*overrides, "SEED", "1"])
    model = build_model(cfg).train()
    mapper = CheckedDatasetMapper(cfg, True)  # pyright: ignore[reportCallIssue]
    loaded = TrainData(cfg, mapper).batches(1, num_workers=0)
    batches = itertools.cycle([next(loaded) for _ in range(4)])

    def step() -> None:
        with EventStorage(0):
            torch.stack(list(model(next(batches)).values())).sum().backward()
        model.zero_grad(set_to_none=True)

    return step


STUDY = Study(
    name="nuclei",
    text=TEXT,
    methods=METHODS,
    command=command,
    read=read,
    steps=steps,
    columns=(
        Column("mask AP, half way", "mask AP", 0.5),
        Column("mask AP50", "mask AP50"),
        Column("box AP", "box AP"),
        Column("mask AP", "mask AP"),
    ),
)
