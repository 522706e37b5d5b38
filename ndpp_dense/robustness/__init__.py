"""How much a network's answer changes when the picture changes in a way that people hardly notice."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndpp_dense.robustness.shift_aliasing import ShiftSpectrum, circular_padding, shift_spectrum
    from ndpp_dense.robustness.shift_borders import BORDERS, Shift, translate
    from ndpp_dense.robustness.shift_classification import ClassificationTask
    from ndpp_dense.robustness.shift_curve import ShiftResult, ShiftSummary
    from ndpp_dense.robustness.shift_detection import Boxes, DetectionTask
    from ndpp_dense.robustness.shift_models import open_classifier
    from ndpp_dense.robustness.shift_pictures import draw_shift
    from ndpp_dense.robustness.shift_report import shift_record, write_shift_csv, write_shift_json
    from ndpp_dense.robustness.shift_run import measure_shifts
    from ndpp_dense.robustness.shift_segmentation import SegmentationTask
    from ndpp_dense.robustness.shift_sets import parse_steps, shift_grid
    from ndpp_dense.robustness.shift_task import Subject

# Loaded when asked for: classifiers need timm, pictures matplotlib.
_HOMES = {
    "BORDERS": "shift_borders",
    "Boxes": "shift_detection",
    "ClassificationTask": "shift_classification",
    "DetectionTask": "shift_detection",
    "SegmentationTask": "shift_segmentation",
    "Shift": "shift_borders",
    "ShiftResult": "shift_curve",
    "ShiftSpectrum": "shift_aliasing",
    "ShiftSummary": "shift_curve",
    "Subject": "shift_task",
    "circular_padding": "shift_aliasing",
    "draw_shift": "shift_pictures",
    "measure_shifts": "shift_run",
    "open_classifier": "shift_models",
    "parse_steps": "shift_sets",
    "shift_grid": "shift_sets",
    "shift_record": "shift_report",
    "shift_spectrum": "shift_aliasing",
    "translate": "shift_borders",
    "write_shift_csv": "shift_report",
    "write_shift_json": "shift_report",
}

__all__ = [
    "BORDERS",
    "Boxes",
    "ClassificationTask",
    "DetectionTask",
    "SegmentationTask",
    "Shift",
    "ShiftResult",
    "ShiftSpectrum",
    "ShiftSummary",
    "Subject",
    "circular_padding",
    "draw_shift",
    "measure_shifts",
    "open_classifier",
    "parse_steps",
    "shift_grid",
    "shift_record",
    "shift_spectrum",
    "translate",
    "write_shift_csv",
    "write_shift_json",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(
            f"module 'ndpp_dense.robustness' has no attribute {name!r}. Public names: {', '.join(sorted(_HOMES))}"
        )
    return getattr(import_module(f"ndpp_dense.robustness.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
