"""How far a shifted copy is, relative to a distortion that changes as much in the sense of PSNR."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndpp_dense.robustness.perceptual.correlation import Interval, bootstrap
from ndpp_dense.robustness.perceptual.distortions import blur, centre, noise
from ndpp_dense.robustness.perceptual.evaluation import variants
from ndpp_dense.robustness.perceptual.generated_ratings import GeneratedRatings

__all__ = ["SHIFTS", "Invariance", "matched", "shift_ratios"]

SHIFTS = tuple(range(1, 9))
_MOST_BLUR = 16.0  # pixels
_MOST_NOISE = 1.0
_STEPS = 20  # of bisection


@dataclass(frozen=True)
class Invariance:
    """Distance to a shifted copy over that to an equally strong distortion; 0 for what does not mind shifts.

    Attributes:
        noise: Geometric mean over references of the ratio to noise, of each shift.
        blur: Likewise to blur.
        mean_noise: Over all shifts too.
        mean_blur: Likewise.
        no_blur: Share of references and shifts whose PSNR no blur reaches; they are left out of ``blur``.
    """

    noise: tuple[Interval, ...]
    blur: tuple[Interval, ...]
    mean_noise: Interval
    mean_blur: Interval
    no_blur: float

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)


@torch.no_grad()
def shift_ratios(
    ratings: GeneratedRatings,
    names: Sequence[str],
    distances: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    weights: Mapping[str, Tensor] | None = None,
    shifts: Sequence[int] = SHIFTS,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Invariance]:
    """Measures the ratios.

    Args:
        ratings: Where the pictures are from; what a shift brings into view is real.
        names: Of the references to use, at least two.
        distances: By name, of images of [0, 1], ``(N,)``, > 0 for images that differ; or terms ``(N, F)``, from which
            two distances are made, with uniform and with given weights.
        weights: ``(F,)``, by the names of ``distances`` that return terms.
        shifts: Pixels to the right.
        seed: Of noise and resamples.
        device: Where the distances are.
    """
    ratios: dict[str, list[np.ndarray]] = defaultdict(list)
    for number, name in enumerate(names):
        picture = ratings.picture(name)
        reference = centre(picture, ratings.margin)
        moved = [centre(picture, ratings.margin, right=shift) for shift in shifts]
        generator = torch.Generator().manual_seed(seed * 100003 + number)
        noisy, blurred = matched(reference, moved, generator)
        images = torch.stack([*moved, *noisy, *(reference if image is None else image for image in blurred)])
        unreached = np.array([image is None for image in blurred])
        measured: dict[str, Tensor] = {}
        for key, distance in distances.items():
            found = distance(reference[None].to(device), images.to(device))
            measured |= {key: found} if found.ndim == 1 else variants(key, found, (weights or {})[key])
        for key, found in measured.items():
            shifted, by_noise, by_blur = found.double().cpu().numpy().reshape(3, -1)
            by_blur = np.where(unreached, np.nan, by_blur)
            ratios[key].append(np.log(np.stack([shifted / by_noise, shifted / by_blur])))
    return {key: _summary(np.stack(found), seed) for key, found in ratios.items()}


def matched(
    reference: Tensor, moved: Sequence[Tensor], generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Noisy and blurred copies with the mean squared error of each moved copy.

    Args:
        reference: ``(3, H, W)`` of [0, 1].
        moved: Likewise.
        generator: Of the noise.

    Returns:
        Noisy copies; blurred ones, None where no blur changes as much.
    """
    field = noise(reference, generator)
    errors = [float((image - reference).square().mean()) for image in moved]
    noisy = [_bisected(lambda s: (reference + s * field).clamp(0, 1), reference, e, _MOST_NOISE) for e in errors]
    blurred = [_bisected(lambda s: blur(reference, s), reference, e, _MOST_BLUR) for e in errors]
    return [image if image is not None else (reference + field).clamp(0, 1) for image in noisy], blurred


def _bisected(make: Callable[[float], Tensor], reference: Tensor, error: float, most: float) -> Tensor | None:
    """The image of the strength whose mean squared error is the one wanted."""
    low, high = 1e-3, most
    if float((make(most) - reference).square().mean()) < error:
        return None
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        if float((make(middle) - reference).square().mean()) < error:
            low = middle
        else:
            high = middle
    return make(high)


def _summary(logs: np.ndarray, seed: int) -> Invariance:
    """From logarithms of ratios ``(R, 2, S)``, to noise and to blur."""
    references = np.arange(len(logs)).astype(str)

    def means(rows: np.ndarray) -> np.ndarray:
        chosen = logs[rows]
        known = np.isfinite(chosen)
        sums, counts = np.where(known, chosen, 0).sum(axis=0), known.sum(axis=0)
        each = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
        total = np.divide(sums.sum(axis=1), counts.sum(axis=1), out=np.full(2, np.nan), where=counts.sum(axis=1) > 0)
        return np.concatenate([each.reshape(-1), total])

    logarithms = bootstrap(means, references, seed=seed)
    found = [Interval(*(float(np.exp(end)) for end in (log.value, log.low, log.high))) for log in logarithms]
    shifts = logs.shape[2]
    to_noise, to_blur = tuple(found[:shifts]), tuple(found[shifts : 2 * shifts])
    return Invariance(to_noise, to_blur, found[-2], found[-1], float(np.isnan(logs[:, 1]).mean()))
