"""Data sets: the generated handwritten-digits demo, and checked COCO-format sets of the user."""

from ndpp_dense.datasets.coco import CocoSource, CocoSummary, parse_dataset_flag, validate_coco
from ndpp_dense.datasets.digits import DigitsPaths, ensure_digits

__all__ = ["CocoSource", "CocoSummary", "DigitsPaths", "ensure_digits", "parse_dataset_flag", "validate_coco"]
