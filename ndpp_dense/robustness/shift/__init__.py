"""How much a network's answer changes when the picture changes in a way that people hardly notice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ndpp_dense.lazy_names import lazy_names

if TYPE_CHECKING:
    from ndpp_dense.robustness.shift.aliasing import ShiftSpectrum, circular_padding, shift_spectrum
    from ndpp_dense.robustness.shift.borders import BORDERS, Shift, translate
    from ndpp_dense.robustness.shift.classification import ClassificationTask
    from ndpp_dense.robustness.shift.curve import ShiftResult, ShiftSummary
    from ndpp_dense.robustness.shift.detection import Boxes, DetectionTask
    from ndpp_dense.robustness.shift.models import open_classifier
    from ndpp_dense.robustness.shift.pictures import draw_shift
    from ndpp_dense.robustness.shift.report import shift_record, write_shift_csv, write_shift_json
    from ndpp_dense.robustness.shift.run import measure_shifts
    from ndpp_dense.robustness.shift.segmentation import SegmentationTask
    from ndpp_dense.robustness.shift.sets import parse_steps, shift_grid
    from ndpp_dense.robustness.shift.task import Subject

# Loaded when asked for: classifiers need timm, pictures matplotlib.
_HOMES = {
    "BORDERS": "borders",
    "Boxes": "detection",
    "ClassificationTask": "classification",
    "DetectionTask": "detection",
    "SegmentationTask": "segmentation",
    "Shift": "borders",
    "ShiftResult": "curve",
    "ShiftSpectrum": "aliasing",
    "ShiftSummary": "curve",
    "Subject": "task",
    "circular_padding": "aliasing",
    "draw_shift": "pictures",
    "measure_shifts": "run",
    "open_classifier": "models",
    "parse_steps": "sets",
    "shift_grid": "sets",
    "shift_record": "report",
    "shift_spectrum": "aliasing",
    "translate": "borders",
    "write_shift_csv": "report",
    "write_shift_json": "report",
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


__getattr__ = lazy_names(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})


def __dir__() -> list[str]:
    return __all__
