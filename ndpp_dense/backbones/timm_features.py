"""Feature maps of any timm network, as detectors and segmentors take them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from ndpp_dense.conversion.probe import is_norm
from ndpp_dense.weights.files import read_weights
from ndpp_dense.weights.formats import unwrapped

__all__ = ["NORMS", "TimmFeatures"]

_SHAPE = re.compile(r"size mismatch for ([^:]+):")
NORMS = ("", "FrozenBN", "SyncBN")


class TimmFeatures(nn.Module):
    """A timm network without its classifier; returns feature maps ``(N, channels, H / stride, W / stride)``.

    Args:
        name: A model of timm's that has ``features_only``.
        weights: File of weights by timm's names; empty for random ones. A classifier in it is passed over.
        out_indices: Which of timm's feature maps, in order; empty for all.
        norm: What becomes of batch norms: ``""`` leaves them, ``"FrozenBN"`` lets them neither train nor follow the
            batch, ``"SyncBN"`` takes their moments over all GPUs.
        freeze_at: Parameters up to the map of stride ``2 ** freeze_at`` do not train, and norms there are frozen; 0
            freezes nothing, 2 what Detectron2 calls stem and ``res2``.
        output_stride: Largest stride; 8 and 16 dilate what comes after, where the network can.

    Attributes:
        channels: Of the feature maps.
        strides: Of the feature maps.
        pretrained: Whether weights were given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No such network, map or norm, or weights that do not fit.
    """

    def __init__(
        self,
        name: str,
        weights: str | Path = "",
        out_indices: Sequence[int] = (),
        norm: str = "",
        freeze_at: int = 0,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm = {norm!r}, choose from {', '.join(map(repr, NORMS))}.")
        self.network: Any = _create(name, weights, out_indices, output_stride)
        info = self.network.feature_info
        self.channels: list[int] = info.channels()
        self.strides: list[int] = info.reduction()
        self.pretrained = bool(weights)
        if norm == "SyncBN":
            self.network = convert_sync_batchnorm(self.network)
        frozen = list(_up_to(self.network, self._names(), 2**freeze_at)) if freeze_at else []
        for module in frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        chosen = list(self.network.modules()) if norm == "FrozenBN" else frozen
        self._still = [module for module in chosen if is_norm(module)]
        for module in self._still:
            module.requires_grad_(False)
        self.train(self.training)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps images ``(N, 3, H, W)``, normalised as the weights want it, to feature maps."""
        return self.network(x)

    def train(self, mode: bool = True) -> TimmFeatures:
        """As for any module; frozen norms keep to their statistics."""
        super().train(mode)
        for module in self._still:
            module.eval()
        return self

    def _names(self) -> list[tuple[int, str]]:
        """Stride and module of every map that the network has, those that are not asked for too."""
        return [(entry["reduction"], entry["module"]) for entry in self.network.feature_info.info]


def _create(name: str, weights: str | Path, out_indices: Sequence[int], output_stride: int) -> Any:
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        raise ValueError(f"timm has no model {name!r}. Nearest: {', '.join(map(repr, near)) or 'none'}.")
    settings: dict[str, Any] = {"out_indices": tuple(out_indices)} if out_indices else {}
    settings |= {"output_stride": output_stride} if output_stride != 32 else {}
    entries = unwrapped(read_weights(weights).entries) if weights else None
    if entries is not None:
        overlay = {"state_dict": dict(entries), "url": "", "hf_hub_id": None, "file": None}
        settings |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        network = timm.create_model(name, features_only=True, **settings)
    except RuntimeError as error:
        shapes = _SHAPE.findall(str(error))
        if not shapes:
            raise _unusable(name, out_indices, output_stride, error) from error
        raise ValueError(
            f"{weights} does not fit {name!r}: {len(shapes)} of its weights have another shape, the first "
            f"{shapes[0]!r}. It is of another model: give that one's name, or weights of this one."
        ) from error
    except (AssertionError, TypeError, KeyError, IndexError, ValueError) as error:
        raise _unusable(name, out_indices, output_stride, error) from error
    if entries is not None:
        _refuse_unmatched(network, entries, name, weights)
    return network


def _unusable(name: str, out_indices: Sequence[int], output_stride: int, error: Exception) -> ValueError:
    asked = f"out_indices = {tuple(out_indices)}, output_stride = {output_stride}"
    reason = " ".join(str(error).split())[:400] or type(error).__name__
    return ValueError(f"timm cannot make feature maps of {name!r} with {asked}: {reason}.")


def _refuse_unmatched(network: nn.Module, entries: Mapping[str, Tensor], name: str, weights: str | Path) -> None:
    """Timm renames what it takes, so that values tell what was loaded."""
    known = {(tuple(value.shape), _sum(value)) for value in entries.values()}
    state = {key: value for key, value in network.state_dict().items() if not key.endswith(".num_batches_tracked")}
    unmatched = [key for key, value in state.items() if (tuple(value.shape), _sum(value)) not in known]
    if unmatched:
        raise ValueError(
            f"{weights} does not fit {name!r}: it has nothing for {len(unmatched)} of {len(state)} weights, the first "
            f"{unmatched[0]!r}. Its own names begin with {', '.join(list(entries)[:3])}. It is of another "
            "model: give that one's name, or weights of this one."
        )


def _sum(value: Tensor) -> float:
    return float(value.double().sum())


def _up_to(network: nn.Module, maps: Sequence[tuple[int, str]], stride: int) -> Iterator[nn.Module]:
    """All modules up to the map of a stride, in the order in which they are defined."""
    names = [name for name, _ in network.named_modules()]
    wanted = [module for reduction, module in maps if reduction == stride]
    prefixes = [prefix for module in wanted for prefix in (module, module.replace(".", "_"), f"model.{module}")]
    inside = [i for i, name in enumerate(names) if any(name == p or name.startswith(f"{p}.") for p in prefixes)]
    if not inside:
        strides = [reduction for reduction, _ in maps]
        raise ValueError(
            f"freeze_at = {stride.bit_length() - 1} asks for the map of stride {stride}, and the network has strides "
            f"{', '.join(map(str, strides))}: choose from {', '.join(str(s.bit_length() - 1) for s in strides)}, or 0."
        )
    modules = dict(network.named_modules())
    for name in names[: max(inside) + 1]:
        yield modules[name]
