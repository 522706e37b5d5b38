"""What to tell the user when training diverges."""

from __future__ import annotations

from ndpp_dense.nonfinite import NonFiniteLayer

__all__ = ["divergence_message"]


def divergence_message(iteration: int, cause: str, layer: NonFiniteLayer | None, good_checkpoint: str | None) -> str:
    """Tell the user what happened, where, what is saved and what to try.

    Args:
        iteration: the iteration that failed, from 0.
        cause: what was seen, such as the values of the losses.
        layer: result of :func:`ndpp_dense.nonfinite.first_nonfinite_layer`.
        good_checkpoint: last checkpoint written before, if any.
    """
    where = (
        f"The first layer with a non-finite output is {layer}."
        if layer
        else "Repeating the step gave finite layer outputs: the loss itself overflowed, or a rare random choice did."
    )
    saved = "There is no checkpoint yet."
    if good_checkpoint:
        saved = f"The last good checkpoint is {good_checkpoint}; nothing was saved over it."
    return (
        f"training diverged at iteration {iteration}: {cause.rstrip('.')}. {where} {saved} "
        "Try a lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS, SOLVER.CLIP_GRADIENTS.ENABLED True, "
        "or a larger MODEL.NDPP.EPS if the layer is an ND++ layer."
    )
