"""Random inputs for models of other libraries."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["fed", "random_input"]


def fed(model: nn.Module, *sizes: tuple[int, ...]) -> Any:
    """The output for the first of these input shapes that the model takes."""
    for index, shape in enumerate(sizes):
        try:
            return model(random_input(model, *shape))
        except Exception:
            if index == len(sizes) - 1:
                raise
    return None


def random_input(model: nn.Module, *shape: int) -> Tensor:
    """Return the same numbers for the same shape, in the data type of the model."""
    generator = torch.Generator().manual_seed(sum(shape))
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return torch.rand(shape, generator=generator).to(dtype)
