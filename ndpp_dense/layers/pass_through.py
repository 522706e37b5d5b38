"""What stands where a norm was: its input, safe from whatever works in place on the norm's output.

A norm makes a new tensor, so that what follows may write over it. Without the norm, an in-place activation would write
over the norm's input, which a shortcut may still need: ``x + conv(relu_(norm(x)))``.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from ndpp_dense.layers.symbolic import as_one_step

__all__ = ["LAST_OUTPUT", "PassThrough", "remember_output"]

LAST_OUTPUT = "_last_output"  # attribute of a layer; a weak reference, which neither keeps memory nor can be pickled


def remember_output(layer: nn.Module, y: Tensor) -> Tensor:
    """Notes which tensor a layer has just made, for the :class:`PassThrough` behind it; returns the tensor."""
    if not torch.compiler.is_compiling():
        layer.__dict__[LAST_OUTPUT] = weakref.ref(y)
    return y


class _Copied(nn.Module):
    """Its input, always as a copy.

    Args:
        origin: What it stands in for, which is kept: PyTorch tells modules that it has seen by their addresses, which
            must not be used again meanwhile.
    """

    def __init__(self, origin: nn.Module) -> None:
        super().__init__()
        self.origin = (origin,)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (as nn.Identity has it)
        """Returns a tensor of the input's shape and values."""
        return input.clone()


class PassThrough(nn.Identity):
    """Hands its input on, as it is where the layer before has just made it, else as a copy.

    Conversion keeps activation modules from working in place; this is for functional ones such as ``F.relu_``. They
    may have the output of the layer that the norm followed. Anything else, above all the input of a pre-activation
    block, is copied, which costs what the norm's output did. A compiler drops copies that nobody needs. What is not
    seen: a *functional* in-place activation on the output of a layer that is used beside its norm too.

    Args:
        source: The layer whose output the norm took; None if it is not known.

    Attributes:
        source: That layer.
        copies: Whether a call has had to copy; None before the first.
    """

    def __init__(self, source: nn.Module | None = None) -> None:
        super().__init__()
        # In a list: not a child, but replaced with its layer when the model is folded.
        self._source = [] if source is None else [source]
        self.copies: bool | None = None  # whether a call had to copy; None before the first

    @property
    def source(self) -> nn.Module | None:
        """The layer whose output the norm took."""
        return self._source[0] if self._source else None

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles in its place."""
        return _Copied(self)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (as nn.Identity has it)
        """Returns a tensor of the input's shape and values."""
        step = as_one_step(self, input)
        if step is not None:
            return step
        if self._source and not torch.compiler.is_compiling():
            made = self._source[0].__dict__.get(LAST_OUTPUT)
            if made is not None and made() is input:
                self.copies = bool(self.copies)
                return input
            self.copies = True
        return input.clone()
