"""What a layer or norm of an unknown class computes, found out by running a copy of it on random numbers.

Frameworks derive from PyTorch's classes: some only call their parent, some standardise the weight or add an activation.
A class name does not tell them apart, and a forward that is lost in conversion is an error that nobody sees.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = ["frozen_norm_eps", "is_norm", "is_plain_norm", "norm_features", "runs_as_plain"]

_SEED = 2022
_VECTORS = ("running_mean", "running_var", "weight", "bias")
_TOLERANCE = 1e-4
_EPS = 1e-5  # of frozen norms that keep none, such as those of Hugging Face


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a batch, synchronised, instance or group norm, or a frozen batch norm of any framework."""
    return isinstance(module, _NormBase | nn.GroupNorm) or _is_frozen_norm(module)


def _is_frozen_norm(module: nn.Module) -> bool:
    """Whether a module is not PyTorch's, but keeps what a batch norm keeps: four vectors of one length."""
    if isinstance(module, _NormBase | torch.jit.ScriptModule):
        return False
    if not {"running_mean", "running_var"} <= set(module._buffers):
        return False
    vectors = [getattr(module, name, None) for name in _VECTORS]
    return all(isinstance(vector, Tensor) and vector.dim() == 1 for vector in vectors)


def norm_features(norm: nn.Module) -> int | None:
    """Channels of a norm, of whatever kind."""
    known = getattr(norm, "num_features", getattr(norm, "num_channels", None))
    mean = getattr(norm, "running_mean", None)
    return len(mean) if known is None and isinstance(mean, Tensor) else known


def frozen_norm_eps(norm: nn.Module) -> float:
    """What a batch norm adds to its variance; PyTorch's default where it does not say."""
    return float(getattr(norm, "eps", _EPS))


def runs_as_plain(layer: nn.Module, plain: type[nn.Module]) -> bool:
    """Whether a layer with a forward of its own does what its parent does, then its ``norm`` and ``activation``.

    Args:
        layer: Of a subclass of ``plain``.
        plain: ``nn.Conv2d``, ``nn.ConvTranspose2d`` or ``nn.Linear``.
    """
    if type(layer).forward is plain.forward:
        return True

    def compare(copy: nn.Module) -> tuple[Tensor, Tensor]:
        x = _input_of(copy)
        expected = plain.forward(copy, x)  # type: ignore[call-arg]
        for after in (getattr(copy, "norm", None), getattr(copy, "activation", None)):
            expected = expected if after is None else after(expected)
        return type(copy).forward(copy, x), expected  # type: ignore[call-arg]

    return _agrees(layer, compare)


def is_plain_norm(norm: nn.Module) -> bool:
    """Whether a norm only normalises, but for the ``drop`` and ``act`` that timm's carry with them."""
    if type(norm).forward in (
        _BatchNorm.forward,
        nn.SyncBatchNorm.forward,
        _InstanceNorm.forward,
        nn.GroupNorm.forward,
    ):
        return True

    def compare(copy: nn.Module) -> tuple[Tensor, Tensor]:
        channels = norm_features(copy) or 1
        x = torch.randn(2, channels, *[5] * _positions(copy)).to(_tensor_of(copy))
        expected = _normalized(copy, x)
        for after in (getattr(copy, "drop", None), getattr(copy, "act", None)):
            expected = after(expected) if isinstance(after, nn.Module) else expected
        return type(copy).forward(copy, x.clone()), expected  # type: ignore[call-arg]

    return _agrees(norm, compare)


def _normalized(norm: nn.Module, x: Tensor) -> Tensor:
    """What PyTorch's norm with these parameters does in evaluation."""
    if isinstance(norm, nn.GroupNorm):
        return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    mean, variance, weight, bias = (cast("Tensor | None", getattr(norm, name)) for name in _VECTORS)
    eps = frozen_norm_eps(norm)
    if isinstance(norm, _InstanceNorm):
        return F.instance_norm(x, mean, variance, weight, bias, not norm.track_running_stats, 0.0, eps)
    return F.batch_norm(x, mean, variance, weight, bias, mean is None, 0.0, eps)  # type: ignore[arg-type]


def _positions(norm: nn.Module) -> int:
    """Dimensions behind the channels in what a norm takes."""
    kinds = ((nn.BatchNorm1d, nn.InstanceNorm1d), (nn.BatchNorm3d, nn.InstanceNorm3d))
    return 1 if isinstance(norm, kinds[0]) else 3 if isinstance(norm, kinds[1]) else 2


def _input_of(layer: nn.Module) -> Tensor:
    """Random numbers that a layer takes, of two samples."""
    weight = _tensor_of(layer)
    if isinstance(layer, nn.Linear):
        return torch.randn(2, layer.in_features).to(weight)
    kernel, dilation = layer.kernel_size, layer.dilation
    sizes = [(k - 1) * d + 4 for k, d in zip(kernel, dilation, strict=True)]  # type: ignore[arg-type, call-overload]
    return torch.randn(2, layer.in_channels, *sizes).to(weight)  # type: ignore[call-overload]


def _tensor_of(module: nn.Module) -> Tensor:
    return module.weight if isinstance(module.weight, Tensor) else torch.empty(())


def _agrees(module: nn.Module, compare: Callable[[nn.Module], tuple[Tensor, Tensor]]) -> bool:
    """Whether two ways to run a copy with random parameters agree, in training and in evaluation where both can."""
    tensors = [*module.parameters(), *module.buffers()]
    on_meta = any(tensor.is_meta for tensor in tensors)
    devices = [tensor.device for tensor in tensors if tensor.device.type == "cuda"]
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(_SEED)
            copy = deepcopy(module).eval()
            copy = copy.to_empty(device="cpu") if on_meta else copy
            for parameter in copy.parameters():  # those that start at zero would hide what is done with them
                parameter.normal_(std=1 / max(1, prod(parameter.shape[1:])) ** 0.5)
            for name, buffer in copy.named_buffers():
                if buffer.is_floating_point():
                    buffer.uniform_(0.5, 2.0) if "var" in name else buffer.normal_()
            found, expected = compare(copy)
            return bool(found.shape == expected.shape) and torch.allclose(found, expected, _TOLERANCE, _TOLERANCE)
    except Exception:  # noqa: BLE001  (foreign code on an input of our making: whatever it raises says "unknown")
        return False
