"""Layers as one step of a symbolic trace: they choose their way by values and modes, which a trace does not have."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy

__all__ = ["as_one_step"]


def as_one_step(module: nn.Module, x: Any) -> Any:
    """The output of a module that ``torch.fx`` traces, as a call of the whole module; None for an actual input.

    Tracers such as torchvision's ``create_feature_extractor`` look into all modules but PyTorch's own.

    Args:
        module: Part of the model that is traced.
        x: Its input.
    """
    if not isinstance(x, Proxy):
        return None
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x,), {})  # pyright: ignore
