"""Training curves drawn from the `metrics.json` that Detectron2 writes."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ndpp_dense.reports.drawing import literal
from ndpp_dense.reports.plots import Panel, Series, draw_losses, draw_rate, save_panels, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curve_panels", "read_metrics", "save_curves"]

_LOG = logging.getLogger(__name__)
_AP_LINES = {
    "segm/AP": ("mask AP", "tab:blue", "-"),
    "segm/AP50": ("mask AP50", "tab:blue", "--"),
    "bbox/AP": ("box AP", "tab:orange", "-"),
    "bbox/AP50": ("box AP50", "tab:orange", "--"),
}
_LOSS_NAMES = {
    "loss_cls": "box class",
    "loss_box_reg": "box position",
    "loss_mask": "mask",
    "loss_rpn_cls": "proposal objectness",
    "loss_rpn_loc": "proposal position",
}


def read_metrics(metrics_json: str | os.PathLike[str]) -> dict[int, dict[str, float]]:
    """Reads Detectron2's `metrics.json`, one JSON object a line.

    A line cut short by a crash is passed over. Where a resumed run went back to an earlier iteration, what the
    abandoned run had written from there on is dropped.

    Args:
        metrics_json: the file.

    Returns:
        Iteration to its finite numbers, in order of iteration.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no line holds metrics.
    """
    path = Path(metrics_json)
    if not path.is_file():
        raise FileNotFoundError(
            f"no training metrics at {path}: Detectron2 writes metrics.json to OUTPUT_DIR while it trains. "
            "Give the file of a run that has trained for at least one logging period."
        )
    records: dict[int, dict[str, float]] = {}
    last = -1
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        record = _parse(line)
        if record is None:
            if line.strip():
                _LOG.warning("%s: line %d is not complete and is passed over", path, number)
            continue
        iteration = int(record.pop("iteration"))
        if iteration < last:
            records = {i: values for i, values in records.items() if i < iteration}
        records.setdefault(iteration, {}).update(record)
        last = iteration
    if not records:
        raise ValueError(f"{path} holds no line with training metrics. Give the metrics.json of a Detectron2 run.")
    return records


def save_curves(metrics_json: str | os.PathLike[str], out_png: str | os.PathLike[str]) -> None:
    """Draws loss, loss components, average precision and learning rate over iterations.

    Args:
        metrics_json: Detectron2's `metrics.json`; see `read_metrics` for what is tolerated.
        out_png: picture to write, 1650 x 1050 pixels; its folder is created if absent.

    Raises:
        FileNotFoundError: there are no metrics.
        ValueError: the file holds no metrics.
    """
    save_panels(curve_panels(read_metrics(metrics_json)), out_png)


def curve_panels(records: dict[int, dict[str, float]]) -> list[Panel]:
    """The four panels of a run.

    Args:
        records: What :func:`read_metrics` returns.
    """
    names = sorted({name for values in records.values() for name in values})
    parts = {_label(name): _series(records, name) for name in names if _is_component(name)}
    scores = {
        f"{name.removesuffix(ending)} {label}".lstrip(): _series(records, name)
        for ending, (label, _, _) in _AP_LINES.items()
        for name in names
        # With several test sets Detectron2 puts the name of the set in front.
        if name == ending or name.endswith(f"/{ending}")
    }
    return [
        Panel("loss", "Total loss", {"total": _series(records, "total_loss")}, draw_losses),
        Panel("parts", "Loss components", parts, draw_losses),
        Panel("score", "Average precision on the validation set", scores, _draw_precision),
        Panel("rate", "Learning rate", {"learning rate": _series(records, "lr")}, draw_rate),
    ]


def _parse(line: str) -> dict[str, float] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("iteration"), (int, float)):
        return None
    return {k: v for k, v in record.items() if isinstance(v, (int, float)) and math.isfinite(v)}


def _is_component(name: str) -> bool:
    return name.startswith("loss_") or "/loss_" in name


def _series(records: dict[int, dict[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(iteration, values[name]) for iteration, values in records.items() if name in values]
    array = np.array(points, dtype=float).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _label(name: str) -> str:
    return _LOSS_NAMES.get(name.rsplit("/", 1)[-1], name)


def _draw_precision(axes: Axes, series: Mapping[str, Series]) -> None:
    if not series:
        say(axes, "no evaluation yet")
        return
    drawn: Counter[str] = Counter()
    for text, (iterations, values) in series.items():
        kind, colour, style = next(line for line in _AP_LINES.values() if text.endswith(line[0]))
        shape = "os^Dv"[drawn[kind] % 5]
        drawn[kind] += 1
        label = f"{literal(text)} {values[-1]:.1f}"
        axes.plot(iterations, values, style, color=colour, marker=shape, markersize=4, label=label)
    axes.set_ylim(0, max(5.0, 1.1 * max(float(values.max()) for _, values in series.values())))
    axes.legend(frameon=False, fontsize=9, title="last value", title_fontsize=9, alignment="left")
