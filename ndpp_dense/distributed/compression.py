"""Gradients in half the bytes on their way between ranks."""

from __future__ import annotations

from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

__all__ = ["check_compression", "compress_gradients"]


def check_compression(dtype: str) -> None:
    """Checks the data type in which gradients are to travel.

    Args:
        dtype: ``"bfloat16"``, or empty for the gradients' own.

    Raises:
        ValueError: Any other; says why ``"float16"`` is none.
    """
    if dtype == "float16":
        raise ValueError(
            "gradient compression in float16: sums over ranks overflow above 65504, and small gradients vanish; "
            "networks without norms have both. Use bfloat16, which has float32's range, or leave it empty."
        )
    if dtype not in ("", "bfloat16"):
        raise ValueError(f"gradient compression {dtype!r}: the choices are 'bfloat16' and '' (none).")


def compress_gradients(parallel: DistributedDataParallel, dtype: str) -> None:
    """Lets the gradients of a network travel in another data type; statistics stay in float32.

    Each rank's gradient is rounded to 8 bits of mantissa before the sum: a relative error of up to 2^-8 each.

    Args:
        parallel: The network, before its first backward pass.
        dtype: See :func:`check_compression`.
    """
    check_compression(dtype)
    if dtype:
        parallel.register_comm_hook(parallel.process_group, bf16_compress_hook)
