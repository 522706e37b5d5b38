"""On which training steps a layer takes new statistics: on every one, or on every T-th."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from ndpp_dense.ops.eager import never_compiled

_EVERY = re.compile(r"every=([1-9][0-9]*)")


def period_of(schedule: object) -> int | None:
    """Steps from one update of a layer to the next: 1, or T >= 2 for ``"every=T"``; None for what is no schedule."""
    if schedule in ("fresh", "stale"):
        return 1
    match = _EVERY.fullmatch(schedule) if isinstance(schedule, str) else None
    return int(match[1]) if match and int(match[1]) > 1 else None


class Turns(nn.Module):
    """Tells a layer, step by step, whether to update its statistics: at the first step, then at every T-th.

    All layers of a model count the same steps, so they update together, and the statistics of each are of inputs that
    the others' new ones have made. Dealt out over the steps they would share the work evenly, but every layer would
    whiten what layers before it, updated since, no longer send: so networks trained far worse. Ranks agree without
    asking each other, since all of them count the same steps.

    What is counted is how many steps are left. A Python number decides, because reading a tensor would wait for the
    device; it is read from the buffer once, at the first step, when weights have been loaded or broadcast. It takes T
    values, so ``torch.compile`` makes T graphs of a frame, which must not be more than
    ``torch._dynamo.config.recompile_limit``. (A frame ends in each layer in training, at the question whether
    activation checkpointing is recomputing it.) A CUDA graph captured by hand repeats the step that was captured:
    capture T of them. The buffer follows the number and is what is saved. (A buffer, not ``get_extra_state``: MMEngine
    and averages of models take parameters and buffers only.)

    Args:
        period: T, >= 2.

    Attributes:
        phase: Scalar of int64, the steps left before the next update, in [0, T).
    """

    phase: Tensor

    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period
        self._left: int | None = None  # to be looked up
        self.register_buffer("phase", torch.zeros((), dtype=torch.long))

    def take(self) -> bool:
        """Whether this step updates; moves on to the next step."""
        left = self._stored() if self._left is None else self._left
        self._left = self.period - 1 if left == 0 else left - 1
        self.phase.fill_(self._left)
        return left == 0

    @never_compiled
    def _stored(self) -> int:
        return int(self.phase)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Goes on where the checkpoint was; where it is, if that was written under ``"fresh"`` and counts no steps."""
        own = torch.zeros((), dtype=torch.long) if self.phase.is_meta else self.phase
        saved = state_dict.get(f"{prefix}phase", own)
        state_dict[f"{prefix}phase"] = saved.clamp(min=0) % self.period  # another period may have written it
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._left = None
