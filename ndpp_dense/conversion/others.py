"""Modules that conversion leaves alone: named in the report, and kept from reading past ND++ layers."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ndpp_dense.conversion.attention import unsplittable
from ndpp_dense.conversion.report import LayerRecord
from ndpp_dense.conversion.rules import ATTENTION
from ndpp_dense.layers.base import NDLayer

__all__ = ["other_layers", "use_no_fused_kernels", "work_on_copies"]

_LINEAR_MAPS = (_ConvNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)


def other_layers(model: nn.Module, known: Container[nn.Module]) -> dict[nn.Module, LayerRecord]:
    """Records of all other modules that have parameters of their own.

    Args:
        model: Before conversion.
        known: Modules that have a record.
    """
    records = {}
    for name, module in model.named_modules():
        own = next(iter(module.parameters(recurse=False)), None)
        if own is None or module in known or isinstance(module, NDLayer):
            continue
        records[module] = LayerRecord(name, _kind(module), *_verdict(module))
    return records


def _kind(module: nn.Module) -> str:
    return str(getattr(module, "original_name", type(module).__name__))


def _verdict(module: nn.Module) -> tuple[str, str]:
    """What was done with a module, and why."""
    if isinstance(module, torch.jit.ScriptModule):
        return "left", "scripted: its code cannot be changed"
    if isinstance(module, nn.MultiheadAttention):
        fault = unsplittable(module)
        return "left", fault or f"its projections are one parameter; the rule {ATTENTION!r}: True makes them layers"
    if isinstance(module, _LINEAR_MAPS):
        return "left", f"there is no ND++ form of {_kind(module)}"
    if "norm" in _kind(module).lower():
        return "kept", "not a norm that ND++ layers replace"
    return "other", "no linear layer"


def use_no_fused_kernels(model: nn.Module) -> None:
    """Keeps PyTorch's transformer layers from the fused kernel that reads the weights of their linear layers.

    Without gradients it computes the plain layers and never calls the ND++ layers in their places.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and _holds_converted(module):
            module.activation_relu_or_gelu = 0  # what the layer itself sets where it has no fused kernel
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and _holds_converted(module):
            module.use_nested_tensor = False  # for the fused kernel alone


def work_on_copies(model: nn.Module) -> None:
    """Lets activations make new tensors that worked in place.

    Where a norm has gone, an activation would write over the output of the layer before, which a shortcut, a
    concatenation or a hook may hold too. Nothing keeps that output for backward: a copy costs no memory then.
    """
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule) and getattr(module, "inplace", None) is True:
            module.inplace = False  # type: ignore[assignment]


def _holds_converted(module: nn.Module) -> bool:
    return any(isinstance(m, NDLayer) for m in module.modules())
