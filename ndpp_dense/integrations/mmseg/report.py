"""What a run leaves behind: results.json, curves.png and predictions.png, and what its page needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ndpp_dense.integrations.mmseg.pictures import Prediction, save_predictions
from ndpp_dense.integrations.mmseg.ranking import Ranking
from ndpp_dense.reports.drawing import drawing
from ndpp_dense.reports.plots import Panel, Series, draw_losses, draw_rate, save_panels, say
from ndpp_dense.reports.results_file import write_results
from ndpp_dense.reports.spectra import conditions_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["HISTORY_KEY", "NDPPReportHook", "curve_panels", "loss_series"]

HISTORY_KEY = "ndpp_evaluations"  # in the message hub, which checkpoints keep


@HOOKS.register_module()
class NDPPReportHook(Hook):
    """Writes the report of a run into its work_dir after every evaluation.

    Args:
        num_images: Images on the sheet of predictions, the first of the validation set.

    Attributes:
        metrics: Of the last evaluation; empty before it.
        ranking: The images that were predicted best and worst then.
        started: Iterations that were done when this start of the run began.
    """

    priority = "LOWEST"

    def __init__(self, num_images: int = 4) -> None:
        self._num_images = num_images
        self._predictions: list[Prediction] = []
        self.metrics: dict[str, float] = {}
        self.ranking = Ranking()
        self.started = 0

    def before_train(self, runner: Any) -> None:
        """Notes where the run goes on."""
        self.started = runner.iter

    def before_val_epoch(self, runner: Any) -> None:
        """Starts a new sheet."""
        self._predictions, self.ranking = [], Ranking()

    before_test_epoch = before_val_epoch

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keeps the first images, the best and the worst."""
        self._keep(runner, runner.val_evaluator, outputs or [])

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Likewise."""
        self._keep(runner, runner.test_evaluator, outputs or [])

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Writes everything; MMEngine has evaluated on all ranks."""
        history = [*runner.message_hub.runtime_info.get(HISTORY_KEY, [])]
        history.append([runner.iter, float((metrics or {}).get("mIoU", float("nan")))])
        runner.message_hub.update_info(HISTORY_KEY, history)
        self._write(runner, metrics, runner.val_dataloader.dataset.metainfo)
        if is_main_process():
            picture = Path(runner.work_dir) / "curves.png"
            with drawing(picture):
                save_panels(curve_panels(loss_series(runner), history), picture)
            with drawing("the condition numbers of the layers"):
                conditions = conditions_picture(runner.model)
                if conditions is not None:
                    runner.visualizer.add_image("ndpp_condition_numbers", conditions, runner.iter)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Writes results and pictures."""
        self._write(runner, metrics, runner.test_dataloader.dataset.metainfo)

    def _keep(self, runner: Any, evaluator: Any, outputs: Sequence[Any]) -> None:
        if not is_main_process():
            return
        missing = self._num_images - len(self._predictions)
        for sample in outputs[: max(0, missing)]:
            with drawing(f"{runner.work_dir}/predictions.png: {sample.img_path}"):
                self._predictions.append(Prediction.of(sample))
        with drawing(f"{runner.work_dir}/report.html, best and worst"):
            self.ranking.add(evaluator, outputs)

    def _write(self, runner: Any, metrics: Mapping[str, float] | None, meta: Mapping[str, Any]) -> None:
        if not is_main_process():
            return
        folder = Path(runner.work_dir)
        self.metrics = {name: round(float(value), 2) for name, value in (metrics or {}).items()}
        write_results({"sem_seg": self.metrics}, folder / "results.json")
        if self._predictions:
            with drawing(folder / "predictions.png"):
                save_predictions(self._predictions, meta["classes"], meta["palette"], folder / "predictions.png")


def loss_series(runner: Any) -> dict[str, Series]:
    """Total loss, its parts and the learning rate by iteration, resumed runs included."""
    found = {}
    for name, buffer in runner.message_hub.log_scalars.items():
        if name.startswith("train/") and (name.endswith("lr") or "loss" in name):
            values = np.asarray(buffer.data[0], float)
            found[name.removeprefix("train/")] = (np.arange(1, len(values) + 1), values)
    return found


def curve_panels(series: Mapping[str, Series], history: Sequence[Sequence[float]]) -> list[Panel]:
    """The four panels of a run.

    Args:
        series: see :func:`loss_series`.
        history: pairs of iteration and mIoU, 0 to 100.
    """
    empty = (np.zeros(0), np.zeros(0))
    iterations, values = np.asarray(history, float).reshape(-1, 2).T
    parts = {name: found for name, found in series.items() if "loss_" in name}
    return [
        Panel("loss", "Total loss", {"total": series.get("loss", empty)}, draw_losses),
        Panel("parts", "Loss components", parts, draw_losses),
        Panel("score", "mIoU on the validation set", {"mIoU": (iterations, values)}, _draw_score),
        Panel("rate", "Learning rate", {"learning rate": series.get("lr", empty)}, draw_rate),
    ]


def _draw_score(axes: Axes, series: Mapping[str, Series]) -> None:
    iterations, values = series["mIoU"]
    if not len(values):
        say(axes, "no evaluation yet")
        return
    axes.plot(iterations, values, marker="o", markersize=4, label=f"last value {values[-1]:.1f}")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
