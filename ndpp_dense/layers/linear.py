"""ND++ linear layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ndpp_dense.layers.base import NDLayer
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.functional import FEATURE_DIMS, scaled_linear
from ndpp_dense.layers.symbolic import as_one_step

__all__ = ["NDLinear"]


class NDLinear(NDLayer, nn.Linear):
    """``nn.Linear`` on scaled and whitened rows (ND++, Eq. 3); every row is used for the statistics.

    Args:
        *args: As for ``nn.Linear``.
        config: How to whiten; ``WhiteningConfig()`` if None.
        **kwargs: As for ``nn.Linear``.
    """

    def __init__(self, *args: Any, config: WhiteningConfig | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = config or WhiteningConfig()
        self._init_whitening(config, self.in_features, config.block_size_linear, 1, sampled=False)

    @classmethod
    def from_linear(cls, linear: nn.Linear, config: WhiteningConfig | None = None) -> NDLinear:
        """The ND++ layer with a plain layer's shape and (the same) parameters, and with a bias."""
        layer = cls(linear.in_features, linear.out_features, config=config, device="meta")
        layer._adopt(linear)
        return layer

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (as nn.Linear has it)
        """Maps ``(..., in_features)`` to ``(..., out_features)``; there may be no rows."""
        step = as_one_step(self, input)
        if step is not None:
            return step
        x, scale = self._scaled(input, FEATURE_DIMS)
        mean, whitening = self.whitening(lambda _: self._data_matrix(x, scale))
        weight, bias = self.effective_parameters(mean, whitening)
        return self._activate(scaled_linear(x, scale, weight, bias, self.weight.dtype))

    def _data_matrix(self, x: Tensor, scale: Tensor | None) -> Tensor:
        data = x.to(self.whitening.running_mean.dtype)
        data = data if scale is None else data * scale
        rows = data.reshape(-1, self.in_features)
        return rows.view(len(rows), self.in_features // self.block_size, self.block_size, 1)

    def _blocked_weight(self) -> Tensor:
        return self.weight.view(1, self.out_features, -1, self.block_size)

    def _unblocked_weight(self, weight_QOGD: Tensor) -> Tensor:
        return weight_QOGD.reshape(self.weight.shape)
