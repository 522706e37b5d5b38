"""What a run leaves behind: results.json, curves.png and predictions.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ndpp_dense.integrations.mmseg.pictures import Prediction, save_predictions
from ndpp_dense.reports.drawing import drawing
from ndpp_dense.reports.plots import Series, draw_losses, draw_rate, save_figure, say, two_by_two
from ndpp_dense.reports.results_file import write_results

__all__ = ["NDPPReportHook", "loss_series", "save_curves"]

HISTORY_KEY = "ndpp_evaluations"  # in the message hub, which checkpoints keep


@HOOKS.register_module()
class NDPPReportHook(Hook):
    """Writes the report of a run into its work_dir after every evaluation.

    Args:
        num_images: Images on the sheet of predictions, the first of the validation set.
    """

    priority = "LOWEST"

    def __init__(self, num_images: int = 4) -> None:
        self._num_images = num_images
        self._predictions: list[Prediction] = []

    def before_val_epoch(self, runner: Any) -> None:
        """Starts a new sheet."""
        self._predictions = []

    before_test_epoch = before_val_epoch

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keeps the first images."""
        if is_main_process():
            missing = self._num_images - len(self._predictions)
            for sample in (outputs or [])[: max(0, missing)]:
                with drawing(f"{runner.work_dir}/predictions.png: {sample.img_path}"):
                    self._predictions.append(_prediction(sample))

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Writes everything; MMEngine has evaluated on all ranks."""
        history = [*runner.message_hub.runtime_info.get(HISTORY_KEY, [])]
        history.append([runner.iter, float((metrics or {}).get("mIoU", float("nan")))])
        runner.message_hub.update_info(HISTORY_KEY, history)
        self._write(runner, metrics, runner.val_dataloader.dataset.metainfo)
        if is_main_process():
            picture = Path(runner.work_dir) / "curves.png"
            with drawing(picture):
                save_curves(loss_series(runner), history, picture)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Writes results and pictures."""
        self._write(runner, metrics, runner.test_dataloader.dataset.metainfo)

    def _write(self, runner: Any, metrics: Mapping[str, float] | None, meta: Mapping[str, Any]) -> None:
        if not is_main_process():
            return
        folder = Path(runner.work_dir)
        rounded = {name: round(float(value), 2) for name, value in (metrics or {}).items()}
        write_results({"sem_seg": rounded}, folder / "results.json")
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


def save_curves(series: Mapping[str, Series], history: Sequence[Sequence[float]], out_png: Path) -> None:
    """Draws losses, learning rate and mIoU over iterations.

    Args:
        series: see :func:`loss_series`.
        history: pairs of iteration and mIoU, 0 to 100.
        out_png: picture to write, 1650 x 1050 pixels.
    """
    figure, axes = two_by_two()
    (total, parts), (score, rate) = axes
    empty = (np.zeros(0), np.zeros(0))
    draw_losses(total, {"total": series.get("loss", empty)}, "Total loss")
    names = [name for name in series if "loss_" in name]
    draw_losses(parts, {name: series[name] for name in names}, "Loss components")
    score.set_title("mIoU on the validation set", loc="left", fontweight="bold")
    iterations, values = np.asarray(history, float).reshape(-1, 2).T
    if len(values):
        score.plot(iterations, values, marker="o", markersize=4, label=f"last value {values[-1]:.1f}")
        score.set_ylim(0, 100)
        score.legend(frameon=False, fontsize=9, loc="lower right")
    else:
        say(score, "no evaluation yet")
    draw_rate(rate, series.get("lr", empty))
    save_figure(figure, out_png)


def _prediction(sample: Any) -> Prediction:
    from ndpp_dense.images.reading import read_image

    predicted = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
    truth = sample.gt_sem_seg.data.squeeze(0).cpu().numpy() if "gt_sem_seg" in sample else np.full_like(predicted, 255)
    height, width = predicted.shape
    pixels = np.asarray(read_image(sample.img_path).resize((width, height)))
    return Prediction(pixels, truth, predicted)
