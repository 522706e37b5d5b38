"""Data sets of the user in COCO format: the NAME=JSON:IMAGES flag, and checks before anything is trained."""

from ndpp_dense.datasets.coco.flag import CocoSource, OtherSource, parse_dataset_flag
from ndpp_dense.datasets.coco.numbering import renumber_annotations
from ndpp_dense.datasets.coco.other_formats import as_coco
from ndpp_dense.datasets.coco.validate import CocoSummary, shared_images, validate_coco

__all__ = [
    "CocoSource",
    "CocoSummary",
    "OtherSource",
    "as_coco",
    "parse_dataset_flag",
    "renumber_annotations",
    "shared_images",
    "validate_coco",
]
