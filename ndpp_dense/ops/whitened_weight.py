"""The weight that does a layer's whitening: ``W' = W D`` block by block, and the bias that goes with it.

Shape suffixes: Q channel groups, O outputs of a group, G blocks of a group, D columns of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ndpp_dense.ops.eager import differentiates_by_hand
from ndpp_dense.ops.precision import full_precision

__all__ = ["whitened_weight"]


def whitened_weight(
    weight_QOGD: Tensor, bias_QO: Tensor, mean_QGD: Tensor, whitening_GDD: Tensor
) -> tuple[Tensor, Tensor]:
    """Moves D and the mean from the data into weight and bias.

    Args:
        weight_QOGD: Weight, cut into blocks.
        bias_QO: Bias.
        mean_QGD: Mean of the data matrix.
        whitening_GDD: D of each of the ``Q * G`` blocks, or one for all; symmetric.

    Returns:
        ``W' = W D`` as ``(Q, O, G, D)``, and ``b' = b - W' mean`` as ``(Q, O)``.
    """
    if differentiates_by_hand(weight_QOGD, bias_QO, mean_QGD, whitening_GDD):
        return _WhitenedWeight.apply(weight_QOGD, bias_QO, mean_QGD, whitening_GDD)  # type: ignore[no-any-return]
    whitened = _times_blocks(weight_QOGD, whitening_GDD)
    return whitened, _shifted(bias_QO, whitened, mean_QGD)


class _WhitenedWeight(torch.autograd.Function):
    """:func:`whitened_weight`; where D and mean are constants it keeps nothing but them.

    With ``H = dW' - db' mean^T`` the gradients are ``dW = H D``, ``dD = W^T H`` and ``dmean = -W'^T db'``.
    """

    @staticmethod
    def forward(ctx: Any, weight_QOGD: Tensor, bias_QO: Tensor, mean_QGD: Tensor, whitening_GDD: Tensor) -> Any:
        whitened = _times_blocks(weight_QOGD, whitening_GDD)
        ctx.constant = not any(ctx.needs_input_grad[2:])
        ctx.save_for_backward(mean_QGD, whitening_GDD, *([] if ctx.constant else [weight_QOGD, whitened]))
        return whitened, _shifted(bias_QO, whitened, mean_QGD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        mean_QGD, whitening_GDD, *weights = ctx.saved_tensors
        grad_weight, grad_bias = grad_outputs
        with full_precision(grad_weight.device):
            grad = torch.addcmul(grad_weight, grad_bias[:, :, None, None], mean_QGD.unsqueeze(1), value=-1)
            by_weight = _times_blocks(grad, whitening_GDD) if ctx.needs_input_grad[0] else None
            if ctx.constant:
                return by_weight, grad_bias, None, None
            weight, whitened = weights
            by_mean = torch.bmm(whitened.flatten(2).mT, -grad_bias.unsqueeze(2)).view(mean_QGD.shape)
            return by_weight, grad_bias, by_mean, _gradient_of_blocks(weight, grad, len(whitening_GDD))


def _shifted(bias_QO: Tensor, whitened_QOGD: Tensor, mean_QGD: Tensor) -> Tensor:
    mean = mean_QGD.flatten(1).unsqueeze(2)
    return torch.baddbmm(bias_QO.unsqueeze(2), whitened_QOGD.flatten(2), mean, alpha=-1).squeeze(2)


def _gradient_of_blocks(weight_QOGD: Tensor, grad_QOGD: Tensor, matrices: int) -> Tensor:
    """``W^T H`` of each block, or of all together where they share a matrix."""
    dim = weight_QOGD.shape[-1]
    if matrices == 1:
        return torch.mm(weight_QOGD.reshape(-1, dim).mT, grad_QOGD.reshape(-1, dim)).unsqueeze(0)
    return torch.einsum("qogd,qoge->qgde", weight_QOGD, grad_QOGD).view(matrices, dim, dim)


def _times_blocks(weight_QOGD: Tensor, whitening_GDD: Tensor) -> Tensor:
    """``W D``; without a copy where the blocks of the weight can be read, and those of the result written, in place."""
    groups, _, blocks, dim = weight_QOGD.shape
    if len(whitening_GDD) == 1:
        return weight_QOGD @ whitening_GDD[0]
    per_group = whitening_GDD.view(groups, blocks, dim, dim)
    if groups > 1 and blocks > 1 or torch.is_grad_enabled() or not differentiates_by_hand(weight_QOGD):
        return torch.einsum("qogd,qgde->qoge", weight_QOGD, per_group)
    whitened = torch.empty_like(weight_QOGD, memory_format=torch.contiguous_format)
    torch.bmm(_by_block(weight_QOGD), whitening_GDD, out=_by_block(whitened))
    return whitened


def _by_block(weight_QOGD: Tensor) -> Tensor:
    return weight_QOGD[0].transpose(0, 1) if len(weight_QOGD) == 1 else weight_QOGD[:, :, 0]
