"""Two epochs of ResNet-50 on a folder of images, with batch norm and with ND++: the same steps, accuracy and speed."""

import logging
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.case import Settings
from bench.gpu.journal import Journal
from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.config_loading import load_config
from ndpp_dense.pretrain.images import Images, open_images
from ndpp_dense.pretrain.processes import own_device
from ndpp_dense.pretrain.trainer import Pretrainer

CONFIGS = {"BN": "resnet50_bn_bs256", "ND++ fast": "resnet50_ndpp_bs256"}
COMMON = ("epochs=2", "warmup_epochs=0", "smoothing=0.0", "log_every=10")
FULL = ("batch_size=64", "lr=0.05", "image_size=96", "amp=bfloat16", "workers=8")
TINY = ("name=resnet18", "batch_size=8", "lr=0.01", "image_size=32", "workers=0")
FIRST = 5  # steps that are slower than those to come


def train_both(journal: Journal, settings: Settings, data: Path | None) -> None:
    """Trains both and keeps the record up to date; a rehearsal makes images of its own.

    Raises:
        FileNotFoundError: There are no such images.
        ValueError: The images are not as they must be.
    """
    logging.getLogger("ndpp_dense").setLevel(logging.INFO)
    folder = journal.path.parent
    train, val = open_images(data or _images(folder / "images"))
    words = [*COMMON, *(TINY if settings.rehearse else FULL)]
    says = {"images": len(train), "validation": len(val), "classes": len(train.classes), "settings": " ".join(words)}
    journal.record["training"] = {**says, "runs": {}}
    for label, name in CONFIGS.items():
        config, _ = load_config(name, words)
        journal.record["training"]["runs"][label] = row = {}
        train_one(config, train, val, settings, folder / name, row, journal)


def train_one(
    config: PretrainConfig,
    train: Images,
    val: Images,
    settings: Settings,
    folder: Path,
    row: dict[str, Any],
    journal: Journal,
) -> None:
    """Trains one network; ``row`` takes steps, images a second and accuracies, and is written as they come."""
    trainer = Pretrainer(config, train, val, own_device(settings.device), folder)
    trainer.state.record.write = lambda folder: None  # no curves: their drawing takes longer than an epoch
    ends: list[float] = []
    advance = trainer.state.advance

    def advanced(loss: Any) -> None:
        advance(loss)
        ends.append(time.perf_counter())
        row.update(steps=len(ends), images_a_second=_speed(ends, config.batch_size))
        row["epochs"] = [
            {key: epoch[key] for key in ("train_loss", "top1")} for epoch in trainer.state.record.evaluated
        ]
        if len(ends) % config.log_every == 0:
            journal.write()

    trainer.state.advance = advanced  # pyright: ignore[reportAttributeAccessIssue]
    results = trainer.train()
    row.update(top1=results["last"]["top1"], top5=results["last"]["top5"])
    row["epochs"] = [{key: epoch[key] for key in ("train_loss", "top1")} for epoch in trainer.state.record.evaluated]
    journal.write()


def _speed(ends: list[float], batch: int) -> float | None:
    """Images a second by the median step, which an evaluation in between does not change."""
    between = [end - start for start, end in zip(ends[FIRST:], ends[FIRST + 1 :], strict=False)]
    return batch / statistics.median(between) if between else None


def _images(folder: Path) -> Path:
    """A few images of two colours, as training takes them."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 4)):
        for label in range(2):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            for index in range(number):
                pixels = rng.integers(0, 128, (40, 40, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(place / f"{index}.png")
    return folder
