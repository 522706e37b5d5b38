"""Compare ND++ with synchronised batch and group normalisation on real images: small DeepLabv3s from scratch on CamVid.

The data folder holds images/{train,val} and labels/{train,val}.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

from studies.engine import Column, Study

ITERATIONS, CROP, BATCH = 240, (128, 160), 8
GROUPS = 8  # of group normalisation: the stem has 16 channels
TEXT = f"""# ND++ against synchronised batch and group normalisation on CamVid

DeepLabv3 on a ResNet-18 of half its width (output stride 8) from scratch, {ITERATIONS} iterations of {BATCH} crops of
{CROP[1]} x {CROP[0]} pixels from images of 240 x 180 (CamVid: 11 classes, 367 training, 101 validation images), same
for every row: `deeplabv3_r18_{{{{syncbn,gn,ndpp}}}}_camvid.py` with what `SMALL` in the script changes. One process, so
SyncBN is batch norm. IoU on the validation images, by MMSegmentation. Written by `python tools/study.py camvid table`
from the JSON files in `camvid/`, one a run; the runs by `python tools/study.py camvid run --data FOLDER`.

All start as MMSegmentation starts them, residual branches at zero: the norm at their end where there is one, the
convolution in ND++ (a run without is in the last table). `paper` was tried at one learning rate.

Hardware: {{hardware}}. Code: {{commits}} (`+`: with edits).
"""
METHODS = {"syncbn": "SyncBN", "gn": "GN", "paper": "ND++ `paper`", "fast": "ND++ `fast`"}
NDPP = ("paper", "fast")
CLASSES = (
    ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
)  # fmt: skip
SMALL = {
    "model.backbone.stem_channels": 32,
    "model.backbone.base_channels": 32,
    "model.decode_head.in_channels": 256,
    "model.decode_head.channels": 64,
    "model.auxiliary_head.in_channels": 128,
    "model.auxiliary_head.channels": 32,
    "model.data_preprocessor.size": CROP,
    "train_dataloader.batch_size": BATCH,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_dataloader.dataset.pipeline.4.crop_size": CROP,
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
    "param_scheduler.0.end": 30,
    "param_scheduler.1.begin": 30,
    "param_scheduler.1.end": ITERATIONS,
    "train_cfg.max_iters": ITERATIONS,
    "train_cfg.val_interval": ITERATIONS // 4,
    "default_hooks.checkpoint.interval": ITERATIONS,
}


def config(method: str) -> tuple[str, dict]:
    """Return config name and options of a method."""
    if method in NDPP:
        return "deeplabv3_r18_ndpp_camvid", {**SMALL, "model.ndpp.preset": method}
    groups = {f"model.{part}.norm_cfg.num_groups": GROUPS for part in ("backbone", "decode_head", "auxiliary_head")}
    return f"deeplabv3_r18_{method}_camvid", {**SMALL, **(groups if method == "gn" else {})}


def command(method: str, settings: list[str], rate: float, seed: int, data: Path, output: Path) -> list[str]:
    """Return the words that train one combination."""
    name, options = config(method)
    chosen = [f"{key}={str(value).replace(' ', '')}" for key, value in options.items()]
    chosen += [*settings, f"optim_wrapper.optimizer.lr={rate}", f"randomness.seed={seed}"]
    words = ["tools/train_seg.py", "--config", name, "--dataset", str(data), "--work-dir", str(output)]
    return [*words, "--cfg-options", *chosen]


def read(output: Path) -> tuple[dict[int, dict[str, float]], list[list[float]]]:
    """Return mIoU and the IoU of each class by iteration, and the losses."""
    files = sorted(output.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for line in files[-1].read_text().splitlines()] if files else []
    losses = [[line["step"], line["loss"]] for line in lines if "loss" in line]
    names = {"mIoU": "mIoU"} | {name: f"IoU-{name}" for name in CLASSES}
    evaluated = {line["step"]: line for line in lines if "mIoU" in line}
    return {step: {name: line[key] for name, key in names.items()} for step, line in evaluated.items()}, losses


def steps(data: Path, method: str) -> Callable[[], None]:
    """Return a function that does one training step; every method gets the same batches."""
    import torch
    from mmengine.runner import Runner

    import ndpp_dense.integrations.mmseg  # noqa: F401  (registers the types that configs name)
    from ndpp_dense.integrations.mmseg.run_config import build_config

    name, options = config(method)
    built = build_config(name, dataset=str(data), options={**options, "randomness.seed": 1})
    torch.manual_seed(1)
    model = Runner.from_cfg(built).model.train()
    loaded = iter(Runner.build_dataloader(built.train_dataloader, seed=1))
    batches = itertools.cycle([next(loaded) for _ in range(4)])

    def step() -> None:
        batch = model.data_preprocessor(next(batches), True)  # pyright: ignore[reportCallIssue]
        losses = model(**batch, mode="loss")
        torch.stack([value for key, value in losses.items() if "loss" in key]).sum().backward()
        model.zero_grad(set_to_none=True)

    return step


STUDY = Study(
    name="camvid",
    text=TEXT,
    methods=METHODS,
    command=command,
    read=read,
    steps=steps,
    columns=(Column("mIoU at a quarter", "mIoU", 0.25), Column("half way", "mIoU", 0.5), Column("mIoU", "mIoU")),
    details=CLASSES,
)
