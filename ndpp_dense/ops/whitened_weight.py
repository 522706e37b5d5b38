"""The weight that does a layer's whitening: ``W' = W D`` block by block, and the shift that goes with it.

Shape suffixes: Q channel groups, O outputs of a group, G blocks of a group, D columns of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ndpp_dense.ops.eager import runs_eagerly
from ndpp_dense.ops.precision import full_precision

__all__ = ["whitened_weight"]


def whitened_weight(weight_QOGD: Tensor, mean_QGD: Tensor, whitening_GDD: Tensor) -> tuple[Tensor, Tensor]:
    """Moves D and the mean from the data into a weight.

    Where D and mean are constants, the backward pass keeps nothing but them: ``dW = dW' D - ds (D mean)^T``.

    Args:
        weight_QOGD: Weight, cut into blocks.
        mean_QGD: Mean of the data matrix.
        whitening_GDD: D of each of the ``Q * G`` blocks, or one for all; symmetric.

    Returns:
        ``W'`` as ``(Q, O, G, D)``, and the shift ``-W' mean`` as ``(Q, O)``.
    """
    groups, _, blocks, dim = weight_QOGD.shape
    constant = not (mean_QGD.requires_grad or whitening_GDD.requires_grad) or not torch.is_grad_enabled()
    # W' mean = W (D mean): D times a vector costs nothing, and what is left is one product of a matrix and a vector.
    whitened_mean = (whitening_GDD @ mean_QGD.reshape(-1, dim, 1)).view(groups, blocks, dim)
    if constant and runs_eagerly(weight_QOGD):
        return _WhitenedWeight.apply(weight_QOGD, whitened_mean, whitening_GDD)  # type: ignore[no-any-return]
    whitened = _times_blocks(weight_QOGD, whitening_GDD)
    return whitened, -_project(weight_QOGD, whitened_mean)


class _WhitenedWeight(torch.autograd.Function):
    """:func:`whitened_weight` for constant D and mean."""

    @staticmethod
    def forward(ctx: Any, weight_QOGD: Tensor, whitened_mean_QGD: Tensor, whitening_GDD: Tensor) -> Any:
        ctx.save_for_backward(whitened_mean_QGD, whitening_GDD)
        return _times_blocks(weight_QOGD, whitening_GDD), -_project(weight_QOGD, whitened_mean_QGD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        whitened_mean_QGD, whitening_GDD = ctx.saved_tensors
        grad_weight, grad_shift = grad_outputs
        with full_precision(grad_weight.device):
            grad = _times_blocks(grad_weight, whitening_GDD)
        grad.addcmul_(grad_shift.view(*grad.shape[:2], 1, 1), whitened_mean_QGD.unsqueeze(1), value=-1)
        return grad, None, None


def _times_blocks(weight_QOGD: Tensor, whitening_GDD: Tensor) -> Tensor:
    """``W D``; without a copy where the blocks of the weight can be read, and those of the result written, in place."""
    groups, _, blocks, dim = weight_QOGD.shape
    if len(whitening_GDD) == 1:
        return weight_QOGD @ whitening_GDD[0]
    per_group = whitening_GDD.view(groups, blocks, dim, dim)
    if groups > 1 and blocks > 1 or torch.is_grad_enabled() or not runs_eagerly(weight_QOGD):
        return torch.einsum("qogd,qgde->qoge", weight_QOGD, per_group)
    whitened = torch.empty_like(weight_QOGD, memory_format=torch.contiguous_format)
    torch.bmm(_by_block(weight_QOGD), whitening_GDD, out=_by_block(whitened))
    return whitened


def _by_block(weight_QOGD: Tensor) -> Tensor:
    return weight_QOGD[0].transpose(0, 1) if len(weight_QOGD) == 1 else weight_QOGD[:, :, 0]


def _project(weight_QOGD: Tensor, vector_QGD: Tensor) -> Tensor:
    """``(Q, O)``, the product of each output's row with a vector."""
    return (weight_QOGD.flatten(2) @ vector_QGD.flatten(1).unsqueeze(2)).squeeze(2)
