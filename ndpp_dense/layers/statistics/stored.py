"""Mean and D as they are stored, in tensors that later steps do not write to."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from ndpp_dense.ops.eager import differentiates_by_hand

__all__ = ["Stored"]


class Stored:
    """Copies of two buffers, made when they have changed and not at every step.

    A backward pass needs what its forward pass used, but buffers are written to in place. A change is seen by the
    buffer being another one, and by its version counter. Copies and pickles begin without any.
    """

    def __init__(self) -> None:
        self._copies: tuple[Tensor, Tensor] | None = None
        self._marks: tuple[tuple[weakref.ref[Tensor], int], ...] = ()

    def of(self, mean: Tensor, whitening: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the buffers, not to be written to."""
        if self._copies is not None and _may_keep(mean, whitening):
            marks = zip((mean, whitening), self._marks, strict=True)
            if all(mark() is buffer and version == buffer._version for buffer, (mark, version) in marks):
                return self._copies
        copies = mean.clone(), whitening.clone()
        self.keep((mean, whitening), copies)
        return copies

    def keep(self, buffers: tuple[Tensor, Tensor], copies: tuple[Tensor, Tensor]) -> None:
        """Takes what was written to the buffers as their copies."""
        keeps = _may_keep(*buffers)
        self._copies = copies if keeps else None
        self._marks = tuple((weakref.ref(buffer), buffer._version) for buffer in buffers) if keeps else ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Stored:
        return Stored()

    def __reduce__(self) -> tuple[Any, ...]:
        return Stored, ()


def _may_keep(*buffers: Tensor) -> bool:
    """Whether copies hold for later: not what a compiler or a CUDA graph records, nor what has no version counter."""
    if not differentiates_by_hand(*buffers):  # first: a compiler does not know what is asked next
        return False
    if torch.is_inference_mode_enabled() or any(buffer.is_inference() for buffer in buffers):
        return False
    return not (buffers[0].is_cuda and torch.cuda.is_current_stream_capturing())
