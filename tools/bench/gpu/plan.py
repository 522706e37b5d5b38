"""The parts of the report, in the order of their value; imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A part.

    Attributes:
        says: What it measures.
        seconds: That it wants, of the 540 of a run; they become shares of the time that there is.
        suite: Whether its record is a suite's, in a file of its own.
        needs: Modules that it imports beyond those of every environment.
    """

    says: str
    seconds: float
    suite: bool = False
    needs: tuple[str, ...] = ()


PLAN = {
    "machine": Measured("What is installed, and whether the GPU computes", 60),
    "tests": Measured("Tests that need a GPU", 90, needs=("pytest", "pytest_timeout")),
    "backbone": Measured("Training step of ResNet-50", 90, True, ("timm",)),
    "detector": Measured("Training step of Mask R-CNN R50-FPN", 85, True, ("detectron2",)),
    "segmentor": Measured("Training step of DeepLabv3 R50", 50, True, ("mmseg",)),
    "inference": Measured("Inference of ResNet-50, folded and not", 80, True, ("timm",)),
    "kernels": Measured("What a training step with ND++ fast launches", 40, needs=("timm",)),
    "pooling": Measured("ResNet-50 with pooling bottlenecks", 35, True, ("timm",)),
    "training": Measured("Two epochs of ResNet-50 on images", 60, needs=("timm", "yaml")),
}
