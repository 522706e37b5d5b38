"""The facts of a run for its page: curves, results, images, settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.images import Images
from ndpp_dense.pretrain.noted import Noted
from ndpp_dense.pretrain.processes import world_size
from ndpp_dense.reports.page import Table
from ndpp_dense.reports.run_report import Cost, Example, RunReport, conversion_facts, write_run_report
from ndpp_dense.reports.spectra import MOST_BLOCKS, layer_spectra
from ndpp_dense.reports.surroundings import Clock
from ndpp_dense.training.settings import flat_settings

__all__ = ["report_evaluation", "report_training"]

_NOTE = "Validation images of the first process, ranked by the probability that the network gives the right class."
_METRICS = {"top1": "top-1", "top5": "top-5"}


def report_training(trainer: Any, started: int, warnings: Sequence[str], state: str, remark: str) -> None:
    """Writes ``report.html`` and ``report.json`` of a training; the first rank calls it.

    Args:
        trainer: Of the run.
        started: Steps that were done before.
        warnings: What was logged.
        state: How it ended.
        remark: A sentence on that.
    """
    record = trainer.state.record
    results = record.results()
    clock, steps = trainer.clock, trainer.state.done - started
    cost = Cost(clock.seconds, steps, clock.seconds_a_step, world_size())
    report = RunReport(
        command="pretrain",
        step=trainer.state.done,
        total=trainer.total,
        state=state,
        remark=remark,
        panels=record.panels(),
        cost=cost,
        **_common(trainer.config, trainer.state.network, results, trainer.noted, trainer.sets, trainer.device.type),
        folder=trainer.output,
        warnings=warnings,
    )
    write_run_report(report)


def report_evaluation(
    config: PretrainConfig,
    network: nn.Module,
    output: Path,
    results: Mapping[str, float],
    noted: Noted,
    sets: Mapping[str, Images],
    clock: Clock,
    warnings: Sequence[str],
    device: str,
) -> None:
    """Writes ``evaluation.html``; the first rank calls it."""
    common = _common(config, network, {"last": results}, noted, sets, device)
    cost = Cost(clock.seconds, 0, None, world_size())
    report = RunReport(
        command="pretrain --eval-only", step=0, total=0, state="evaluated", cost=cost, folder=output,
        warnings=warnings, **common,
    )  # fmt: skip
    write_run_report(report, "evaluation.html")


def _common(
    config: PretrainConfig,
    network: nn.Module,
    results: Mapping[str, Mapping[str, float]],
    noted: Noted | None,
    sets: Mapping[str, Images],
    device: str,
) -> dict[str, Any]:
    classes = [str(name) for name in next(iter(sets.values())).classes]
    settings = flat_settings(asdict(config))
    usual = flat_settings(asdict(PretrainConfig(name=config.name)))
    last = results.get("last", {})
    return {
        "metric": "top-1",
        "figures": {name: last[key] for key, name in _METRICS.items() if key in last},
        "tables": _tables(results, noted, classes),
        "examples": _examples(noted, classes) if noted is not None else [],
        "examples_note": _NOTE,
        "examples_small": True,
        "data": _data(sets, classes),
        "settings": settings,
        "chosen": [name for name, value in settings.items() if name == "name" or usual.get(name) != value],
        "conversion": conversion_facts(network),
        "spectra": layer_spectra(network.state_dict(), MOST_BLOCKS),
        "device": device,
    }


def _tables(results: Mapping[str, Mapping[str, float]], noted: Noted | None, classes: Sequence[str]) -> list[Table]:
    if not results:
        return []
    rows = [[kind, *(row[key] for key in _METRICS), f"{row['loss']:.4f}"] for kind, row in results.items()]
    tables = [Table("Accuracy on the validation images", ["", *_METRICS.values(), "loss"], rows, percent=True)]
    if noted is None:
        return tables
    counted = zip(classes, noted.by_class(), strict=True)
    by_class = [[name, accuracy, str(count)] for name, (accuracy, count) in counted]
    return [*tables, Table("Top-1 accuracy by class", ("class", "top-1", "images"), by_class, percent=True)]


def _examples(noted: Noted, classes: Sequence[str]) -> list[Example]:
    return [
        Example(
            group,
            f"{classes[answer.target]}, taken for {classes[answer.answer]}: probability of the right class "
            f"{answer.probability:.2g}",
            answer.jpeg,
        )
        for group in ("worst", "best")
        for answer in noted.answers(group)
    ]


def _data(sets: Mapping[str, Images], classes: Sequence[str]) -> list[Table]:
    rows = [[name, len(images), len(images.classes), str(images.root)] for name, images in sets.items()]
    tables = [Table("Sets", ("set", "images", "classes", "from"), rows)]
    known = {name: getattr(images, "targets", None) for name, images in sets.items()}
    if any(targets is None for targets in known.values()):
        return tables
    counts = {name: Counter(targets.tolist()) for name, targets in known.items() if targets is not None}
    by_class = [[label, *(counts[name][index] for name in sets)] for index, label in enumerate(classes)]
    return [*tables, Table("Images of each class", ("class", *sets), by_class)]
