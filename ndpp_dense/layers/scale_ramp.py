"""Local scale that comes in over the first steps, for networks that were trained without it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ndpp_dense.layers.local_scale import Dims, inverse_magnitude, times_scale

__all__ = ["ScaleRamp", "ramp_local_scale"]


class ScaleRamp(nn.Module):
    """The local scale ``S_n = m^(a-1) / m_n^a`` with a share ``a`` from 0 to 1.

    At ``a = 0`` every sample is divided by the same ``m``, at ``a = 1`` by its own mean absolute value ``m_n``: the
    scale ``"l1"``. A calibrated layer's weight is made for m, so that in between sample n is multiplied by
    ``(m / m_n)^a``: at the start it computes what the original did.

    Args:
        steps: Over which the share grows, >= 1.

    Attributes:
        reference: ``m``, scalar; 1 until a calibration sets it.
        share: ``a``, scalar.
        complete: Whether ``a`` is 1, known without a look at the device.
    """

    reference: Tensor
    share: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.complete = False
        self.register_buffer("reference", torch.ones(()))
        self.register_buffer("share", torch.zeros(()))

    def forward(self, x: Tensor, dims: Dims) -> tuple[Tensor, Tensor | None]:
        """As :attr:`ndpp_dense.layers.local_scale.LocalScale.apply`."""
        scale = inverse_magnitude(x, dims)
        share, reference = self.share.to(scale.dtype), self.reference.to(scale.dtype)
        return times_scale(x, scale**share * reference ** (share - 1))

    def refer_to(self, magnitude: Tensor) -> None:
        """Sets ``m``, scalar > 0."""
        self.reference.copy_(magnitude)

    def advance(self, step: int) -> None:
        """Sets the share for an optimizer step, counted from 0."""
        share = min(1.0, step / self.steps)
        if not (self.complete and share == 1):
            self.share.fill_(share)
            self.complete = share == 1

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.complete = not self.share.is_meta and float(self.share) == 1

    def extra_repr(self) -> str:
        """The length of the ramp."""
        return f"steps={self.steps}"


def ramp_local_scale(model: nn.Module, step: int) -> None:
    """Sets how much of local scale the layers with ``scale_steps`` have, before an optimizer step.

    The training tools of this package do so by themselves. Nothing happens in a model without such layers.

    Args:
        model: A model with ND++ layers.
        step: Of the run, from 0; the same on all ranks.
    """
    for module in model.modules():
        if isinstance(module, ScaleRamp):
            module.advance(step)
