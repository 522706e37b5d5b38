"""First and second moments of a layer's data matrix.

Shape suffixes: N samples, G blocks of channels, D columns of a block (its channels times the kernel's area), R rows
(one per sampled output position), T packed triangle.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from ndpp_dense.ops.collectives import sum_over_ranks, world_size
from ndpp_dense.ops.eager import differentiates_by_hand, made_once, needs_gradient
from ndpp_dense.ops.precision import full_precision

__all__ = [
    "Moments",
    "data_moments",
    "mean_and_covariance",
    "pack_moments",
    "packed_size",
    "sum_moments_over_ranks",
    "unpack_moments",
]

CACHE = 1 << 19  # bytes of shifted rows that the CPU keeps near: small enough for the second-level cache


class Moments(NamedTuple):
    """Sums over the rows of a data matrix, taken about a shift.

    Attributes:
        count: Number of rows: a number, or a scalar tensor where it is a sum over ranks; a tensor with a value a layer
            where those of several layers are put together.
        total: Sum of ``row - shift``, ``(G, D)``.
        outer: Sum of ``(row - shift)(row - shift)^T``, ``(G, D, D)``.
    """

    count: Tensor | float
    total: Tensor
    outer: Tensor


def data_moments(data_NG: Tensor, shift_GD: Tensor) -> Moments:
    """Moments of a data matrix about ``shift``.

    The shift is what makes float32 enough: with mean/std = 50, sums of plain squares lose three digits of the
    covariance, sums about a nearby mean none.

    Args:
        data_NG: Data matrix ``(N, G, ...)``: after the blocks the dimensions of the columns, whose product is D, then
            those of the positions; rows run along N and the positions.
        shift_GD: Point about which to sum, near the mean. With one block (G = 1) and data of several, the blocks are
            pooled as extra rows.

    Returns:
        Moments of shape G as the shift's; zeros (connected to the graph) when there is no row.
    """
    blocks, dim = shift_GD.shape
    end = 3
    while prod(data_NG.shape[2:end]) < dim:
        end += 1
    if blocks == 1 and data_NG.shape[1] > 1:
        data_NG = data_NG.movedim(1, end - 1).unsqueeze(1)
    count = data_NG.numel() // (blocks * dim)
    recorded = needs_gradient(data_NG)
    if recorded and differentiates_by_hand(data_NG, shift_GD):
        return Moments(count, *_RecordedSums.apply(data_NG, shift_GD, end))
    if recorded or data_NG.requires_grad or torch.compiler.is_compiling():
        rows_GDR = data_NG.movedim(0, end - 1).reshape(blocks, dim, -1) - shift_GD.unsqueeze(-1)
        return Moments(count, rows_GDR.sum(-1), rows_GDR @ rows_GDR.transpose(1, 2))
    return Moments(count, *_sums(data_NG, shift_GD, end))


def _sums(data_NG: Tensor, shift_GD: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """``total`` and ``outer`` without a gradient, by one copy that shifts, in the order in which the data lies.

    On the CPU as many blocks are taken at once as the cache holds.

    Args:
        data_NG: As for :func:`data_moments`.
        shift_GD: One point a block.
        end: Dimension of the data after the columns.
    """
    blocks, dim = shift_GD.shape
    taps = data_NG.shape[3:end]
    shift = shift_GD.view(blocks, *data_NG.shape[2:end], *[1] * (data_NG.dim() - end + 1))
    data = data_NG.movedim(0, end - 1)  # blocks, columns, samples, positions
    rows_first = data_NG.stride(2) == 1  # channels_last: blocks, samples, positions, taps, channels
    if rows_first:
        order = [0, *range(end - 1, data.dim()), *range(2, end - 1), 1]
        data, shift = data.permute(order), shift.permute(order).contiguous()
    total, outer = torch.empty_like(shift_GD), shift_GD.new_empty(blocks, dim, dim)
    per_block = max(1, data[:1].numel() * shift_GD.element_size())
    at_once = max(1, min(blocks, CACHE // per_block)) if data.device.type == "cpu" else blocks
    buffer = shift_GD.new_empty(at_once, *data.shape[1:])
    for first in range(0, blocks, at_once):
        some = slice(first, min(first + at_once, blocks))
        moved = torch.sub(data[some], shift[some], out=buffer[: some.stop - first])
        rows = moved.view(len(moved), -1, dim).mT if rows_first else moved.view(len(moved), dim, -1)
        torch.sum(rows, -1, out=total[some])
        torch.bmm(rows, rows.mT, out=outer[some])
    return _weight_order(total, outer, taps.numel()) if rows_first and taps.numel() > 1 else (total, outer)


class _RecordedSums(torch.autograd.Function):
    """``total`` and ``outer`` with a gradient: ``dL/drow = dL/dtotal + (G + G^T) row`` with ``G = dL/douter``."""

    @staticmethod
    def forward(ctx: Any, data_NG: Tensor, shift_GD: Tensor, end: int) -> Any:
        data = data_NG.movedim(0, end - 1)
        moved = torch.sub(data, shift_GD.view(*data.shape[: end - 1], *[1] * (data.dim() - end + 1)))
        rows_GDR = moved.reshape(*shift_GD.shape, -1)
        ctx.save_for_backward(rows_GDR)
        ctx.shape, ctx.end = data.shape, end
        return rows_GDR.sum(-1), torch.bmm(rows_GDR, rows_GDR.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        (rows_GDR,), (grad_total, grad_outer) = ctx.saved_tensors, grad_outputs
        with full_precision(rows_GDR.device):
            grad = torch.baddbmm(grad_total.unsqueeze(-1), grad_outer + grad_outer.mT, rows_GDR)
        return grad.view(ctx.shape).movedim(ctx.end - 1, 0), None, None


def _weight_order(total: Tensor, outer: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """From columns ordered tap by tap to a convolution weight's order, channel by channel."""
    blocks, dim = total.shape
    total = total.view(blocks, taps, -1).mT.reshape(blocks, dim)
    outer = outer.view(blocks, taps, dim // taps, taps, dim // taps).permute(0, 2, 1, 4, 3).reshape(blocks, dim, dim)
    return total, outer


def sum_moments_over_ranks(moments: Moments, group: ProcessGroup | None = None) -> Moments:
    """Adds up the moments of all ranks in one collective.

    Sums and counts are exchanged, never means: ranks see different numbers of pixels and of regions, and a mean of
    means weights them wrongly. Only one triangle of the second moment travels.

    Args:
        moments: This rank's moments, about a shift that is equal on all ranks.
        group: Process group; None is the default group.

    Returns:
        The moments of the union of all rows, equal on all ranks.
    """
    if world_size(group) == 1:
        return moments
    packed = sum_over_ranks(pack_moments(moments), group)
    count, total, outer = unpack_moments(packed, 1, *moments.total.shape)
    return Moments(torch.as_tensor(count).view(()), total, outer)


def pack_moments(moments: Moments) -> Tensor:
    """What travels of moments, flat: counts, totals, and one triangle of the second moments."""
    upper = _upper_triangle(moments.total.shape[1], moments.outer.device)
    triangle = moments.outer.flatten(1)[:, upper]
    count = moments.count
    count = count.flatten() if isinstance(count, Tensor) else moments.total.new_full((1,), count)
    return torch.cat([count, moments.total.flatten(), triangle.flatten()])


def packed_size(layers: int, blocks: int, dim: int) -> int:
    """Length of what :func:`pack_moments` makes of the moments of so many layers, blocks and columns."""
    return layers + blocks * dim + blocks * dim * (dim + 1) // 2


def unpack_moments(packed: Tensor, layers: int, blocks: int, dim: int) -> Moments:
    """Inverse of :func:`pack_moments`; the count has the shape ``(layers,)``."""
    count, total, triangle = packed.split([layers, blocks * dim, blocks * dim * (dim + 1) // 2])
    return Moments(count, total.view(blocks, dim), _unpack_triangle(triangle.view(blocks, -1), dim))


def mean_and_covariance(moments: Moments, shift_GD: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(G, D)``, biased covariance ``(G, D, D)`` from moments about ``shift``; without rows, shift and zeros."""
    count = moments.count.clamp(min=1) if isinstance(moments.count, Tensor) else max(moments.count, 1)
    offset_GD = moments.total / count
    covariance = moments.outer / count - offset_GD.unsqueeze(2) * offset_GD.unsqueeze(1)
    return shift_GD + offset_GD, covariance


@made_once
def _upper_triangle(dim: int, device: torch.device) -> Tensor:
    """Flat indices of the upper triangle of a ``dim x dim`` matrix, diagonal included."""
    rows, columns = torch.triu_indices(dim, dim, device=device)
    return rows * dim + columns


@made_once
def _triangle_position(dim: int, device: torch.device) -> Tensor:
    """Where in the packed triangle each of the ``dim * dim`` entries of the symmetric matrix lies."""
    position = torch.zeros(dim, dim, dtype=torch.long, device=device)
    rows, columns = torch.triu_indices(dim, dim, device=device)
    position[rows, columns] = position[columns, rows] = torch.arange(len(rows), device=device)
    return position.flatten()


def _unpack_triangle(triangle_GT: Tensor, dim: int) -> Tensor:
    return triangle_GT[:, _triangle_position(dim, triangle_GT.device)].view(-1, dim, dim)
