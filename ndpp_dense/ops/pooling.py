"""3x3 pooling as a block's spatial operation (parameter-free layers, PfLayer, ICLR 2022), padded to keep the size.

Shapes: N samples, C channels, H and W input pixels, P and Q output pixels, K = 9 taps in reading order.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["TAPS", "deform_pool3x3", "max_pool3x3", "sampling_grid", "shift_max3x3"]

TAPS = 9


def max_pool3x3(x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Maximum of the 3x3 window around every (``stride``-th) pixel, in the fastest exact form.

    All forms give the same bits. PyTorch's kernel for CPUs is vectorised for channels_last alone, and on contiguous
    maps takes ten to forty times as long as shifted maxima do (56 pixels a side). So in inference these are pooled by
    shifted maxima; in training, where the gradient of the shifts costs more than they save, they go through
    channels_last, which costs two copies and takes about half of the time. Everything else takes PyTorch's kernel:
    channels_last maps, other devices, and graphs that are compiled or exported, where one node is better than ten.

    Args:
        x: ``(N, C, H, W)``; N may be 0. What lies outside the map never wins.
        stride: Pixels between windows, >= 1.
        dilation: Pixels between the taps of a window, >= 1.

    Returns:
        ``(N, C, ceil(H / stride), ceil(W / stride))``, in the memory format of ``x``.
    """
    as_graph = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if as_graph or x.device.type != "cpu" or x.is_contiguous(memory_format=torch.channels_last):
        return _kernel_max3x3(x, stride, dilation)
    if torch.is_grad_enabled() and x.requires_grad:
        return _kernel_max3x3(x.contiguous(memory_format=torch.channels_last), stride, dilation).contiguous()
    return shift_max3x3(x, stride, dilation)


def shift_max3x3(x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """The same as four maxima of shifted maps, two down the columns and two along the rows.

    The gradient of a maximum that several taps share is divided among them (PyTorch's kernel gives it to the first);
    where they share a zero behind a ReLU, neither reaches the weights.

    Args:
        x: ``(N, C, H, W)``.
        stride: Pixels between windows, >= 1.
        dilation: Pixels between the taps of a window, >= 1.

    Returns:
        ``(N, C, ceil(H / stride), ceil(W / stride))``.
    """
    height, width = x.shape[-2:]
    # Rows first: whole rows are contiguous, and the stride then halves the work along them.
    x = _pad(x, dilation)
    up, middle, down = (x[..., t : t + height : stride, :] for t in (0, dilation, 2 * dilation))
    x = torch.maximum(torch.maximum(up, middle), down)
    left, middle, right = (x[..., t : t + width : stride] for t in (0, dilation, 2 * dilation))
    return torch.maximum(torch.maximum(left, middle), right)


def _kernel_max3x3(x: Tensor, stride: int, dilation: int) -> Tensor:
    if dilation == 1:
        return F.max_pool2d(x, 3, stride, padding=1)
    # max_pool2d itself refuses a padding over half of the undilated window.
    return F.max_pool2d(_pad(x, dilation), 3, stride, dilation=dilation)


def _pad(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (width, width, width, width), value=-math.inf)


def deform_pool3x3(
    x: Tensor, offset: Tensor, modulation: Tensor, reduction: str = "max", stride: int = 1, dilation: int = 1
) -> Tensor:
    """Maximum or mean of nine modulated samples at predicted places (PfLayer, deformable max-pool and avg-pool).

    Samples are bilinear, and zero outside the map. They are taken in float32 whatever the input is: in 16 bits a
    place on a large map is known to a whole pixel only.

    Args:
        x: ``(N, C, H, W)``; N may be 0.
        offset: ``(N, 18, P, Q)``: dy and dx, in pixels, of each tap from its place in the window.
        modulation: ``(N, 9, P, Q)``: what each sample is multiplied by.
        reduction: ``"max"`` or ``"mean"`` over the nine.
        stride: Pixels between windows, >= 1; P is ``ceil(H / stride)``, Q alike.
        dilation: Pixels between the taps of a window, >= 1.

    Returns:
        ``(N, C, P, Q)`` in the data type of ``x``.

    Raises:
        ValueError: Unknown reduction.
    """
    if reduction not in ("max", "mean"):
        raise ValueError(f"Unknown reduction {reduction!r} of a deformable pool. Choices: 'max', 'mean'.")
    grid_NKPQ2 = sampling_grid(offset.float(), x.shape[-2], x.shape[-1], stride, dilation)
    # One tap at a time needs a ninth of the memory and, without gradients, less than half of the time.
    parts = 1 if torch.is_grad_enabled() and (x.requires_grad or offset.requires_grad) else TAPS
    pairs = zip(grid_NKPQ2.chunk(parts, 1), modulation.float().chunk(parts, 1), strict=True)
    values = x.float()
    samples = (_sample(values, grid) * weight.unsqueeze(1) for grid, weight in pairs)
    if reduction == "mean":
        return (reduce(torch.add, (part.sum(2) for part in samples)) / TAPS).to(x.dtype)
    # Not amax: its gradient needs the result, which the in-place ReLU of most blocks overwrites.
    return reduce(torch.maximum, (part.max(2).values for part in samples)).to(x.dtype)


def sampling_grid(offset: Tensor, height: int, width: int, stride: int = 1, dilation: int = 1) -> Tensor:
    """Where the taps of a deformable 3x3 window lie, as ``grid_sample(align_corners=False)`` wants it.

    Args:
        offset: ``(N, 18, P, Q)``, dy and dx of each tap in pixels.
        height: Of the map that is sampled.
        width: Of the map that is sampled.
        stride: Pixels between windows.
        dilation: Pixels between taps.

    Returns:
        ``(N, 9, P, Q, 2)``: x and y, -1 and 1 being the outer edges of the first and the last pixel.
    """
    rows, columns = offset.shape[-2:]
    taps = torch.arange(-1, 2, device=offset.device, dtype=offset.dtype) * dilation
    y = torch.arange(rows, device=offset.device, dtype=offset.dtype) * stride
    x = torch.arange(columns, device=offset.device, dtype=offset.dtype) * stride
    shift = offset.unflatten(1, (TAPS, 2))
    y_NKPQ = shift[:, :, 0] + taps.repeat_interleave(3).view(TAPS, 1, 1) + y.view(rows, 1)
    x_NKPQ = shift[:, :, 1] + taps.repeat(3).view(TAPS, 1, 1) + x
    return torch.stack([(2 * x_NKPQ + 1) / width - 1, (2 * y_NKPQ + 1) / height - 1], dim=-1)


def _sample(x: Tensor, grid_NKPQ2: Tensor) -> Tensor:
    """Bilinear samples ``(N, C, K, P, Q)``: the taps are rows below each other for ``grid_sample``."""
    taps, rows = grid_NKPQ2.shape[1:3]
    samples = F.grid_sample(x, grid_NKPQ2.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False)
    return samples.unflatten(2, (taps, rows))
