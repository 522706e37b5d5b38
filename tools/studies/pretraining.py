"""What the comparisons that train classifiers share: the command, its results, and single steps."""

import csv
import itertools
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from studies.engine import Column

LOADING = ["workers=0"]  # in the training process: runs beside each other share no core
COLUMNS = (Column("top-1 at a quarter", "top-1", 0.25), Column("half way", "top-1", 0.5), Column("top-1", "top-1"))
METRICS = {"top-1": "top1", "top-5": "top5"}


def command(config: str, settings: list[str], rate: float, seed: int, data: Path, output: Path) -> list[str]:
    """Return the words that train a config."""
    words = ["tools/pretrain.py", "--config", config, "--data", str(data), "--device", "cpu", "--output", str(output)]
    return [*words, *LOADING, *settings, f"lr={rate}", f"seed={seed}"]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack images, if that was not done before."""
    if not folder.exists():
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and 3.10.12 were the first
            tar.extractall(folder)


def steps_by_method(words: Callable[[str], tuple[str, list[str]]]) -> Callable[[Path, str], Callable[[], None]]:
    """Return what :class:`studies.engine.Study` calls ``steps``, from a method's config and settings."""
    return lambda data, method: steps(*words(method), data)


def command_by_method(words: Callable[[str], tuple[str, list[str]]]) -> Callable[..., list[str]]:
    """Return what :class:`studies.engine.Study` calls ``command``, from a method's config and settings."""

    def build(method: str, settings: list[str], rate: float, seed: int, data: Path, output: Path) -> list[str]:
        name, own = words(method)
        return command(name, [*own, *settings], rate, seed, data, output)

    return build


def read(output: Path) -> tuple[dict[int, dict[str, float]], list[list[float]]]:
    """Return accuracy in per cent and training loss by epoch."""
    file = output / "summary.csv"
    if not file.exists():
        return {}, []
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    found = {int(row["epoch"]): {label: float(row[key]) for label, key in METRICS.items()} for row in rows}
    return found, [[int(row["epoch"]), float(row["train_loss"])] for row in rows]


def read_evaluation(output: Path) -> dict[int, dict[str, float]]:
    """Return the accuracy that ``--eval-only`` found, as that of epoch 0."""
    found = json.loads((output / "evaluation.json").read_text())["evaluation"]
    return {0: {label: found[key] for label, key in METRICS.items()}}


def steps(config: str, settings: list[str], data: Path) -> Callable[[], None]:
    """Return a function that does one training step, the optimizer's included; every config gets the same batches."""
    import torch

    from ndpp_dense.pretrain.config_loading import load_config
    from ndpp_dense.pretrain.images import open_images
    from ndpp_dense.pretrain.stream import TrainStream, train_batches
    from ndpp_dense.pretrain.trainer import Pretrainer

    chosen, _ = load_config(config, [*LOADING, *settings])
    images, val = open_images(data, None)
    trainer = Pretrainer(chosen, images, val, torch.device("cpu"), tempfile.gettempdir())
    loaded = train_batches(TrainStream(images, chosen, chosen.seed), chosen, torch.device("cpu"))
    batches = itertools.cycle([next(loaded) for _ in range(4)])
    return lambda: trainer.state.advance(trainer.state.step([next(batches)], trainer.state.done))
