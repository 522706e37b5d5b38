"""Whether code runs now, on values that are there, or is being recorded for later."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

__all__ = [
    "differentiates_by_hand",
    "is_fake",
    "made_once",
    "needs_gradient",
    "never_compiled",
    "runs_eagerly",
    "scalar",
]

Function = TypeVar("Function", bound=Callable[..., Any])


def runs_eagerly(*tensors: Tensor | None) -> bool:
    """Whether Python may look at these tensors' values, and remember results.

    Not under what :func:`differentiates_by_hand` names, nor under dispatch modes (fake tensors among them) or CUDA
    graph capture: there are no values, or what was decided by them would not hold later.

    Args:
        *tensors: Those in question; None is passed over.
    """
    if not differentiates_by_hand(*tensors) or torch._C._len_torch_dispatch_stack() > 0:
        return False
    if any(tensor is not None and is_fake(tensor) for tensor in tensors):
        return False
    on_gpu = any(tensor is not None and tensor.is_cuda for tensor in tensors)
    return not (on_gpu and torch.cuda.is_current_stream_capturing())


def differentiates_by_hand(*tensors: Tensor | None) -> bool:
    """Whether gradients written by hand may take the place of autograd's, and work in place that of new tensors.

    Not under torch.compile, torch.export, jit tracing, functorch transforms or forward-mode differentiation, and not
    with tensor subclasses or batches of gradients. Values need not be there.

    Args:
        *tensors: Those in question; None is passed over.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    for tensor in tensors:
        if tensor is None:
            continue
        if not (type(tensor) is Tensor or type(tensor) is nn.Parameter or is_fake(tensor)):
            return False
        if is_legacy_batchedtensor(tensor):  # autograd's is_grads_batched
            return False
    return True


def made_once(function: Function) -> Function:
    """Keeps what a function of hashable arguments has made, for as long as the process lives.

    Not what it makes for fake tensors or in a CUDA graph that is captured: others could not use that.
    """
    made: dict[tuple[Any, ...], Any] = {}

    @wraps(function)
    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args)
        fake = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
        if fake or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()):
            return made[args] if args in made and not fake else function(*args)
        if args not in made:
            with torch.inference_mode(False):  # it must serve in training too
                made[args] = function(*args)
        return made[args]

    return cast(Function, call)


@made_once
def scalar(value: float, dtype: torch.dtype) -> Tensor:
    """A number as a tensor of a data type, on the CPU: a device is told its value without a copy, in one operation."""
    return torch.tensor(value, dtype=dtype, device="cpu")


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor stands for one that is not there."""
    return hasattr(tensor, "fake_mode")


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd would record an operation on these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def never_compiled(function: Function) -> Function:
    """``torch.compiler.disable``, with the type of what it decorates, and without the import of the compiler.

    To import that takes as long as to import torch. So it waits until something is being compiled, when it is there.

    Args:
        function: Called by compiled code as it is; a graph ends there.
    """
    # Imports the compiler when it is called, not now.
    outside_of_graphs = torch._disable_dynamo(function)  # pyright: ignore[reportPrivateImportUsage]

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (outside_of_graphs if torch.compiler.is_compiling() else function)(*args, **kwargs)

    return cast(Function, call)
