"""On which training steps a layer takes new statistics, and when it uses them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ndpp_dense.ops.eager import never_compiled

__all__ = ["Schedule", "UpdateInterval"]

_EVERY = re.compile(r"every=([1-9][0-9]*)")


class Schedule(NamedTuple):
    """A schedule of ``WhiteningConfig``, parsed.

    Attributes:
        period: Steps from one update of a layer to the next, >= 1.
        stale: Whether a step uses the statistics of the steps before, and those of its own are exchanged meanwhile.
    """

    period: int = 1
    stale: bool = False

    @classmethod
    def parse(cls, text: object) -> Schedule:
        """Reads ``"fresh"``, ``"stale"`` or ``"every=T"``.

        Raises:
            ValueError: It is none of these, or T is no whole number >= 2.
        """
        return _parse(text) if isinstance(text, str) else _refuse(text)

    @property
    def fresh(self) -> bool:
        """Whether every step takes statistics and uses them at once."""
        return self.period == 1 and not self.stale


@lru_cache(maxsize=256)
def _parse(text: str) -> Schedule:
    if text in ("fresh", "stale"):
        return Schedule(stale=text == "stale")
    match = _EVERY.fullmatch(text)
    return Schedule(int(match[1])) if match and int(match[1]) > 1 else _refuse(text)


def _refuse(schedule: object) -> Schedule:
    raise ValueError(f"schedule = {schedule!r} ('fresh', 'stale', or 'every=T' with a whole number T >= 2)")


class UpdateInterval(nn.Module):
    """Tells a layer, step by step, whether to update its statistics: at the first step, then at every T-th.

    All layers of a model count the same steps, so they update together, and the statistics of each are of inputs that
    the others' new ones have made. Dealt out over the steps they would share the work evenly, but every layer would
    whiten what layers before it, updated since, no longer produce: so networks trained far worse. Ranks agree without
    asking each other, since all of them count the same steps.

    A step of a converted model is a step of all its layers, whether they run or not and whether it fails or not (see
    ``steps.watch_steps``); a layer that is run past such a model counts its own runs.

    What is counted is how many steps are left. A Python number decides, because reading a tensor would wait for the
    device; it is read from a buffer once, at the first step, when weights have been loaded or broadcast. It takes T
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
        self._left = 0
        self._left_of: Tensor | None = None  # the buffer that says so; another must be looked up
        self.register_buffer("phase", torch.zeros((), dtype=torch.long))

    def left(self) -> int:
        """Steps before the next update; 0 if it is due."""
        return self._left if self._left_of is self.phase else self._stored()

    def take(self) -> bool:
        """Whether this step updates; moves on to the next step."""
        left = self.left()
        self._left, self._left_of = self._next(left), self.phase
        self.phase.fill_(self._left)
        return left == 0

    @staticmethod
    def take_together(intervals: Sequence[UpdateInterval], left: int) -> bool:
        """:meth:`take` for layers of one period that agree on how many steps are left before the next update."""
        then = intervals[0]._next(left)
        for interval in intervals:
            interval._left, interval._left_of = then, interval.phase
        phases = [interval.phase for interval in intervals]
        torch._foreach_zero_(phases)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(phases, then)  # pyright: ignore[reportPrivateImportUsage]
        return left == 0

    def _next(self, left: int) -> int:
        return (self.period if left == 0 else left) - 1

    def reset_parameters(self) -> None:
        """The next step updates."""
        self.phase.zero_()
        self._left_of = None

    @never_compiled
    def _stored(self) -> int:
        return 0 if self.phase.is_meta else int(self.phase)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Goes on where the checkpoint was; where it is, if that was written under ``"fresh"`` and counts no steps."""
        own = torch.zeros((), dtype=torch.long) if self.phase.is_meta else self.phase
        saved = state_dict.get(f"{prefix}phase", own)
        state_dict[f"{prefix}phase"] = saved.clamp(min=0) % self.period  # another period may have written it
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._left_of = None
