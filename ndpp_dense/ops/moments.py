"""First and second moments of a layer's data matrix.

Shape suffixes: N samples, C channels, H and W positions, G blocks of channels, D columns of a block (its channels times
the kernel's area), R rows (one per sampled output position), L output positions of one sample, T packed triangle.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from ndpp_dense.ops.collectives import sum_over_ranks, world_size


class Moments(NamedTuple):
    """Sums over the rows of a data matrix, taken about a shift.

    Attributes:
        count: Number of rows, a scalar.
        total: Sum of ``row - shift``, ``(G, D)``.
        outer: Sum of ``(row - shift)(row - shift)^T``, ``(G, D, D)``.
    """

    count: Tensor
    total: Tensor
    outer: Tensor


def patch_matrix(
    x_NCHW: Tensor,
    block_size: int,
    kernel_size: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Data matrix of a convolution (im2col), cut into blocks of ``block_size`` channels.

    Args:
        x_NCHW: Input, N >= 0.
        block_size: Channels per block; must divide C.
        kernel_size: Height and width of the window.
        stride: Distance between sampled windows, in input pixels.
        padding: Zeros added on each side.
        dilation: Distance between the taps of a window.

    Returns:
        ``(N, G, D, L)`` with ``G = C / block_size`` and ``D = block_size * kernel area``; the columns of a block are
        ordered as a convolution's weight is: channel, then row, then column of the kernel.
    """
    n, c = x_NCHW.shape[:2]
    if kernel_size == (1, 1) and padding == (0, 0):
        columns = x_NCHW[:, :, :: stride[0], :: stride[1]]
    else:
        columns = F.unfold(x_NCHW, kernel_size, dilation=dilation, padding=padding, stride=stride)
    positions = columns.shape[2:].numel()
    return columns.reshape(n, c // block_size, block_size * kernel_size[0] * kernel_size[1], positions)


def data_moments(data_NGDL: Tensor, shift_GD: Tensor) -> Moments:
    """Moments of a data matrix about ``shift``.

    The shift is what makes float32 enough: with mean/std = 50, sums of plain squares lose three digits of the
    covariance, sums about a nearby mean none.

    Args:
        data_NGDL: Data matrix, rows along N and L.
        shift_GD: Point about which to sum, near the mean. With one block (G = 1) and data of several, the blocks are
            pooled as extra rows.

    Returns:
        Moments of shape G as the shift's; zeros (connected to the graph) when there is no row.
    """
    blocks, dim = shift_GD.shape
    rows_GDR = data_NGDL.permute(1, 2, 0, 3).reshape(data_NGDL.shape[1], dim, -1)
    if blocks == 1 and rows_GDR.shape[0] > 1:
        rows_GDR = rows_GDR.transpose(0, 1).reshape(1, dim, -1)
    rows_GDR = rows_GDR - shift_GD.unsqueeze(-1)
    count = torch.tensor(float(rows_GDR.shape[-1]), dtype=rows_GDR.dtype, device=rows_GDR.device)
    return Moments(count, rows_GDR.sum(-1), rows_GDR @ rows_GDR.transpose(1, 2))


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
    blocks, dim = moments.total.shape
    upper = _upper_triangle(dim, moments.outer.device)
    packed = torch.cat([moments.count.view(1), moments.total.flatten(), moments.outer.flatten(1)[:, upper].flatten()])
    packed = sum_over_ranks(packed, group)
    count, total, triangle = packed.split([1, blocks * dim, blocks * len(upper)])
    outer = _unpack_triangle(triangle.view(blocks, -1), dim)
    return Moments(count.view(()), total.view(blocks, dim), outer)


def mean_and_covariance(moments: Moments, shift_GD: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(G, D)``, biased covariance ``(G, D, D)`` from moments about ``shift``; without rows, shift and zeros."""
    count = moments.count.clamp(min=1)
    offset_GD = moments.total / count
    covariance = moments.outer / count - offset_GD.unsqueeze(2) * offset_GD.unsqueeze(1)
    return shift_GD + offset_GD, covariance


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # what is kept here must serve in training too
def _upper_triangle(dim: int, device: torch.device) -> Tensor:
    """Flat indices of the upper triangle of a ``dim x dim`` matrix, diagonal included."""
    rows, columns = torch.triu_indices(dim, dim, device=device)
    return rows * dim + columns


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _triangle_position(dim: int, device: torch.device) -> Tensor:
    """Where in the packed triangle each of the ``dim * dim`` entries of the symmetric matrix lies."""
    position = torch.zeros(dim, dim, dtype=torch.long, device=device)
    rows, columns = torch.triu_indices(dim, dim, device=device)
    position[rows, columns] = position[columns, rows] = torch.arange(len(rows), device=device)
    return position.flatten()


def _unpack_triangle(triangle_GT: Tensor, dim: int) -> Tensor:
    return triangle_GT[:, _triangle_position(dim, triangle_GT.device)].view(-1, dim, dim)
