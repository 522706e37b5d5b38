"""What to tell the user when training diverges."""

from __future__ import annotations

from ndpp_dense.training import nonfinite
from ndpp_dense.training.nonfinite import NonFiniteLayer

__all__ = ["divergence_message"]

_ADVICE = (
    "Try a lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS, SOLVER.CLIP_GRADIENTS.ENABLED True, "
    "or a larger MODEL.NDPP.EPS if the layer is an ND++ layer."
)


def divergence_message(iteration: int, cause: str, layer: NonFiniteLayer | None, good_checkpoint: str | None) -> str:
    """:func:`ndpp_dense.training.nonfinite.divergence_message` with what to try in Detectron2's words."""
    return nonfinite.divergence_message(iteration, cause, layer, good_checkpoint, _ADVICE)
