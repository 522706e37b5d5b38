"""The data matrix of a convolution: one row of scaled input per sampled window.

Shape suffixes: N samples, C channels, H and W positions, G blocks of B channels, I and J rows and columns of the
kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ndpp_dense.ops.precision import statistics_dtype

__all__ = ["Window", "patch_matrix"]


class Window(NamedTuple):
    """Which input pixels a row of the data matrix sees.

    Attributes:
        kernel_size: Height and width of the window; a length, or depth, height and width, for maps of other dimensions.
        stride: Distance between sampled windows, in input pixels.
        padding: Zeros added on each side.
        dilation: Distance between the taps of a window.
    """

    kernel_size: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)

    def positions(self, size: torch.Size) -> tuple[int, ...]:
        """Rows and columns of windows on a map of ``size`` (its last entries count)."""
        sizes = size[-len(self.kernel_size) :]
        fields = zip(sizes, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in fields)


def patch_matrix(x_NCHW: Tensor, block_size: int, window: Window, scale: Tensor | None = None) -> Tensor:
    """Data matrix of a convolution (im2col), cut into blocks of ``block_size`` channels.

    Without a gradient and where windows overlap it is a view of the padded input: :func:`data_moments` then copies
    each window once, into the layout that its product wants.

    Args:
        x_NCHW: Input, N >= 0; maps of one or three dimensions are cut likewise.
        block_size: Channels per block; must divide C.
        window: What a row sees.
        scale: Factor per sample, such as ``(N, 1, 1, 1)``, in the statistics' data type, or None for 1.

    Returns:
        ``(N, G, B, I, J, H', W')`` in the statistics' data type; the columns of a block, B to J, are ordered as a
        convolution's weight is. Not to be written to.
    """
    if x_NCHW.dim() != 4:
        return _windows(_scaled(x_NCHW, scale), window).unflatten(1, (-1, block_size))
    n, c = x_NCHW.shape[:2]
    blocks = (c // block_size, block_size)
    high, wide = window.positions(x_NCHW.shape)
    (kh, kw), (sh, sw) = window.kernel_size, window.stride
    if window.kernel_size == (1, 1) and window.padding == (0, 0):
        return _scaled(x_NCHW[:, :, ::sh, ::sw], scale).view(n, *blocks, 1, 1, high, wide)
    overlapping = sh * sw <= kh * kw
    # An unfold of few windows reads less than a padded copy would, but it would first copy channels_last input.
    recorded = (torch.is_grad_enabled() and x_NCHW.requires_grad) or torch.compiler.is_compiling()
    if (overlapping or x_NCHW.stride(1) == 1) and not recorded:
        return _window_view(_scaled_and_padded(x_NCHW, window.padding, scale), window).unflatten(1, blocks)
    x_NCHW = _scaled(x_NCHW, scale) if overlapping else x_NCHW
    columns = F.unfold(x_NCHW, window.kernel_size, window.dilation, window.padding, window.stride)
    data = columns.view(n, c, kh, kw, high, wide).unflatten(1, blocks)
    return data if overlapping else _scaled(data, None if scale is None else scale.view(n, *(1,) * 6))


def _windows(x: Tensor, window: Window) -> Tensor:
    """``(N, C, *kernel, *positions)``: all windows of maps of any dimension; a view of the padded input."""
    axes = len(window.kernel_size)
    if any(window.padding):
        x = F.pad(x, [side for padding in reversed(window.padding) for side in (padding, padding)])
    for axis in range(axes):
        reach = (window.kernel_size[axis] - 1) * window.dilation[axis] + 1
        x = x.unfold(2 + axis, reach, window.stride[axis])[..., :: window.dilation[axis]]
    return x.permute(0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes))


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x.to(statistics_dtype(x)) if scale is None else x * scale


def _scaled_and_padded(x_NCHW: Tensor, padding: tuple[int, ...], scale: Tensor | None) -> Tensor:
    """One copy for factor, padding and data type, in the layout of the input."""
    n, c, h, w = x_NCHW.shape
    ph, pw = padding
    layout = torch.channels_last if x_NCHW.stride(1) == 1 else torch.contiguous_format
    shape, dtype = (n, c, h + 2 * ph, w + 2 * pw), statistics_dtype(x_NCHW)
    padded = torch.empty(shape, dtype=dtype, device=x_NCHW.device, memory_format=layout).zero_()
    inside = padded[:, :, ph : ph + h, pw : pw + w]
    if scale is None:
        inside.copy_(x_NCHW)
    else:
        torch.mul(x_NCHW, scale, out=inside)
    return padded


def _window_view(x_NCHW: Tensor, window: Window) -> Tensor:
    """``(N, C, I, J, H', W')``: all windows of an input that is padded already."""
    (sn, sc, sh, sw), (vertical, horizontal), (dh, dw) = x_NCHW.stride(), window.stride, window.dilation
    shape = (*x_NCHW.shape[:2], *window.kernel_size, *window._replace(padding=(0, 0)).positions(x_NCHW.shape))
    return x_NCHW.as_strided(shape, (sn, sc, sh * dh, sw * dw, sh * vertical, sw * horizontal))
