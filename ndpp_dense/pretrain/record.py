"""What a run has measured so far, and the files that show it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndpp_dense.atomic_file import replacing
from ndpp_dense.reports.drawing import drawing
from ndpp_dense.reports.plots import Panel, Series, draw_losses, draw_rate, marker, save_panels, say
from ndpp_dense.reports.results_file import write_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Record"]

_COLUMNS: tuple[str, ...] = ("epoch", "step", "lr", "train_loss", "loss", "top1", "top5")


class Record:
    """Losses by optimizer step and results by epoch; part of every checkpoint.

    Attributes:
        losses: Rows of step, training loss (mean since the row before) and learning rate.
        epochs: One mapping an epoch with ``epoch``, ``step``, ``lr``, ``train_loss`` and, where it was evaluated,
            ``loss``, ``top1`` and ``top5``.
    """

    def __init__(self) -> None:
        self.losses: list[list[float]] = []
        self.epochs: list[dict[str, float]] = []

    @property
    def evaluated(self) -> list[dict[str, float]]:
        """The epochs that were evaluated."""
        return [row for row in self.epochs if "top1" in row]

    @property
    def best(self) -> dict[str, float] | None:
        """The epoch with the highest top-1 accuracy, the earliest of equal ones; None before any evaluation."""
        return max(self.evaluated, key=lambda row: row["top1"], default=None)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain numbers."""
        return {"losses": self.losses, "epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what :meth:`state_dict` returned."""
        self.losses, self.epochs = state["losses"], state["epochs"]

    def write(self, folder: Path) -> None:
        """Writes, once there is an evaluation, ``results.json``, and ``summary.csv`` and ``curves.png``."""
        if self.evaluated:
            write_results(self.results(), folder / "results.json")
        with replacing(folder / "summary.csv") as path, path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, _COLUMNS)
            writer.writeheader()
            writer.writerows(self.epochs)
        with drawing(folder / "curves.png"):
            save_panels(self.panels(), folder / "curves.png")

    def results(self) -> dict[str, dict[str, float]]:
        """The last evaluation and the best one: loss, and top-1 and top-5 accuracy in percent."""
        kinds = {"last": self.evaluated[-1:], "best": [self.best] if self.best else []}
        wanted = ("epoch", "loss", "top1", "top5")
        return {kind: {name: row[name] for name in wanted} for kind, rows in kinds.items() for row in rows}

    def panels(self) -> list[Panel]:
        """Losses, accuracy and learning rate by step."""
        steps, losses, rates = np.asarray(self.losses, float).reshape(-1, 3).T
        names = {"training": "train_loss", "validation": "loss"}
        by_epoch = {label: self._series(name) for label, name in names.items()}
        scores = {"top-1": self._series("top1"), "top-5": self._series("top5")}
        return [
            Panel("loss", "Training loss", {"training": (steps, losses)}, draw_losses),
            Panel("parts", "Loss by epoch", by_epoch, draw_losses),
            Panel("score", "Accuracy on the validation images", scores, _draw_accuracy),
            Panel("rate", "Learning rate", {"learning rate": (steps, rates)}, draw_rate),
        ]

    def _series(self, name: str) -> Series:
        rows = [(row["step"], row[name]) for row in self.epochs if name in row]
        steps, values = np.asarray(rows, float).reshape(-1, 2).T
        return steps, values


def _draw_accuracy(axes: Axes, series: Mapping[str, Series]) -> None:
    if not len(series["top-1"][0]):
        say(axes, "no evaluation yet")
        return
    for name, (steps, values) in series.items():
        axes.plot(steps, values, marker=marker(values), label=f"{name} {values[-1]:.1f}")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, fontsize=9, loc="lower right", title="last value", title_fontsize=9)
