"""Perceptual distance on the global averages of a backbone's maps, with learned weights."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ndpp_dense.atomic_file import replacing
from ndpp_dense.ops.collectives import sum_over_ranks
from ndpp_dense.robustness.perceptual.stages import StageMaps

__all__ = ["GapDistance", "MeanGapDistance", "WeightedDistance", "gap_distance", "weighted_root_mean"]

_SUM = "sha256"  # of the weights, beside them


def gap_distance(features_a: Tensor, features_b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Distance between feature vectors, ``sqrt(mean(w^2 * (a - b)^2))``.

    Args:
        features_a: ``(N, F)``, such as from :meth:`GapDistance.features`; N may be 1.
        features_b: ``(N, F)``.
        weight: ``(F,)``; None is a weight of 1 for all.

    Returns:
        ``(N,)``, >= 0. Its gradient at equal vectors is zero.
    """
    return weighted_root_mean((features_a - features_b).square(), weight)


def weighted_root_mean(terms: Tensor, weight: Tensor | None = None) -> Tensor:
    """``sqrt(mean(w^2 * terms))`` over the last axis; ``terms`` ``(N, F)`` >= 0, ``weight`` ``(F,)``."""
    mean = (terms if weight is None else terms * weight.square()).mean(dim=-1)
    positive = mean > 0  # the slope of a square root at zero is infinite: keep it out of the gradient
    return torch.where(positive, torch.where(positive, mean, 1.0).sqrt(), 0.0)


class WeightedDistance(nn.Module):
    """A distance that is the root of a weighted mean of terms, each >= 0.

    Args:
        stages: Where the terms come from.

    Attributes:
        weight: ``(F,)``, >= 0, one for every channel of every stage; 1 at first.
    """

    def __init__(self, stages: StageMaps) -> None:
        super().__init__()
        self.stages = stages
        example = self.stages.mean
        self.weight = nn.Parameter(torch.ones(sum(stages.channels), dtype=example.dtype, device=example.device))

    def terms(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns ``(N, F)``, >= 0, for images ``(N, 3, H, W)`` of [0, 1]; the N of either may be 1."""
        raise NotImplementedError

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of images.

        Args:
            a: ``(N, 3, H, W)``, of [0, 1]; N may be 1.
            b: Likewise.

        Returns:
            ``(N,)``, >= 0.

        Raises:
            ValueError: Wrong shape, range or size; numbers of images that do not fit.
        """
        if len(a) != len(b) and 1 not in (len(a), len(b)):
            raise ValueError(f"{len(a)} and {len(b)} images: give as many of both, or one of either.")
        return weighted_root_mean(self.terms(a, b), self.weight)

    def save_weight(self, path: str | os.PathLike[str], **about: str) -> None:
        """Writes the weights as safetensors.

        Args:
            path: File to write.
            **about: Words that are kept with them, such as the backbone and what they were trained on.
        """
        weight = self.weight.detach().cpu().contiguous()
        with replacing(path) as made:
            save_file({"weight": weight}, made, metadata={**about, _SUM: _sum(weight)})

    def load_weight(self, path: str | os.PathLike[str]) -> None:
        """Reads what :meth:`save_weight` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no such file, is damaged, or is of another backbone.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"weights of a distance: there is no file {path}.")
        try:
            weight = load_file(path)["weight"]
            with safe_open(path, framework="pt") as file:
                stated = (file.metadata() or {}).get(_SUM)
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} holds no weights of a distance: {error}. Give what save_weight wrote.") from error
        if stated not in (None, _sum(weight)):
            raise ValueError(f"{path} is damaged: its weights are not those that were written. Copy or make it again.")
        if weight.shape != self.weight.shape or bool((weight < 0).any()):
            raise ValueError(
                f"{path} has weights of shape {tuple(weight.shape)}, at least {float(weight.min()):g}; this backbone "
                f"needs {tuple(self.weight.shape)}, none negative. Give those that were trained with it."
            )
        with torch.no_grad():
            self.weight.copy_(weight)


def _sum(weight: Tensor) -> str:
    return hashlib.sha256(weight.numpy().tobytes()).hexdigest()


class GapDistance(WeightedDistance):
    """``sqrt(mean(w^2 * (GAP(a) - GAP(b))^2))`` over the global averages of all stages' maps.

    To average before comparing is what makes it bear shifts: where something is does not enter, up to the borders and
    what striding aliases. On VGG-16 there are five stages and 1472 averages. Called like ``lpips.LPIPS``, but on images
    of [0, 1], and it returns ``(N,)``. Differentiable in the images.

    Args:
        stages: See :class:`StageMaps`.
    """

    def features(self, images: Tensor) -> Tensor:
        """Returns the averages ``(N, F)`` of images ``(N, 3, H, W)`` of [0, 1]."""
        return torch.cat([stage.mean(dim=(2, 3)) for stage in self.stages(images)], dim=1)

    def terms(self, a: Tensor, b: Tensor) -> Tensor:
        """Squared differences of the averages; images may differ in size."""
        return (self.features(a) - self.features(b)).square()


class MeanGapDistance:
    """The mean distance over a data set, collected batch by batch as torchmetrics' metrics are.

    Args:
        distance: Of two batches of images, ``(N,)``.
    """

    def __init__(self, distance: nn.Module) -> None:
        self.distance = distance
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._total = torch.zeros(2, dtype=torch.float64)  # sum and number

    def update(self, a: Tensor, b: Tensor) -> None:
        """Adds a batch of pairs, ``(N, 3, H, W)`` each."""
        self(a, b)

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Adds a batch and returns its own mean."""
        found = self.distance(a, b)
        self._total = self._total.to(found.device)
        self._total += torch.stack([found.double().sum(), self._total.new_tensor(float(found.numel()))])
        return found.mean()

    @torch.no_grad()
    def compute(self) -> Tensor:
        """Returns the mean over all pairs of all ranks, a scalar; every rank must call it.

        Raises:
            ValueError: There were no pairs.
        """
        total, number = sum_over_ranks(self._total)
        if not number:
            raise ValueError("No pairs yet: call update(a, b) before compute().")
        return (total / number).float()
