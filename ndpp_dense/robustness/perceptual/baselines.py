"""Other distances between images, to compare with: PSNR, SSIM, LPIPS, DISTS, and activations compared in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ndpp_dense.robustness.perceptual.distance import WeightedDistance
from ndpp_dense.weights.files import read_checkpoint

__all__ = [
    "BASELINES",
    "ActivationDistance",
    "BaselineUnavailableError",
    "negative_psnr",
    "open_baselines",
    "ssim_distance",
]

Distance = Callable[[Tensor, Tensor], Tensor]  # of (N, 3, H, W) of [0, 1] each, (N,)
_MOST_PSNR = 100.0  # decibels: of equal images it would be infinite
_SSIM_WINDOW, _SSIM_SIGMA, _SSIM_K1, _SSIM_K2 = 11, 1.5, 0.01, 0.03  # as published


class BaselineUnavailableError(RuntimeError):
    """A baseline cannot be measured here; the message says what it needs."""


class ActivationDistance(WeightedDistance):
    """Activations of unit length, compared position by position, averaged over positions, channels weighted.

    This is how LPIPS compares, but on the backbone that is given, with weights of its own and the root of
    :class:`ndpp_dense.robustness.perceptual.GapDistance`: the fair baseline of that. It is not LPIPS, whose backbone
    and weights are its own.
    """

    def terms(self, a: Tensor, b: Tensor) -> Tensor:
        """Squared differences of unit activations, averaged over positions; images must be of equal size."""
        pairs = zip(self.stages(a), self.stages(b), strict=True)
        return torch.cat([(_unit(x) - _unit(y)).square().mean(dim=(2, 3)) for x, y in pairs], dim=1)


def _unit(stage: Tensor) -> Tensor:
    return stage / (stage.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def negative_psnr(a: Tensor, b: Tensor) -> Tensor:
    """Minus the peak signal-to-noise ratio in decibels, ``(N,)``, at least -100 (equal images)."""
    error = (a - b).square().mean(dim=(1, 2, 3))
    return (10 * error.log10()).clamp(min=-_MOST_PSNR)


def ssim_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - SSIM, ``(N,)``, the mean over channels and windows that lie within the image.

    Raises:
        ValueError: An image is smaller than the window of 11 pixels.
    """
    if min(*a.shape[2:], *b.shape[2:]) < _SSIM_WINDOW:
        raise ValueError(
            f"Image too small for SSIM: {a.shape[2]} x {a.shape[3]} pixels, its window has {_SSIM_WINDOW}. "
            "Give larger images, or leave SSIM out."
        )
    x, y = torch.broadcast_tensors(a, b)
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x, var_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    both = _windowed(x * y) - mean_x * mean_y
    c1, c2 = _SSIM_K1**2, _SSIM_K2**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return 1 - similarity.mean(dim=(1, 2, 3))


def _windowed(x: Tensor) -> Tensor:
    offsets = torch.arange(_SSIM_WINDOW, dtype=x.dtype, device=x.device) - _SSIM_WINDOW // 2
    kernel = torch.exp(-offsets.square() / (2 * _SSIM_SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    return F.conv2d(F.conv2d(x, kernel, groups=x.shape[1]), kernel.transpose(2, 3), groups=x.shape[1])


def _lpips(network: str) -> Distance:
    """LPIPS by its own package, with torchvision's weights of its backbone."""
    file = _published_weights("lpips", {"vgg": "VGG16_Weights", "alex": "AlexNet_Weights"}[network])
    weights = read_checkpoint(file)
    import lpips  # pyright: ignore[reportMissingImports]

    with _quiet():
        model = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)  # without a download
        trunk = {name: weights[f"features.{name.partition('.')[2]}"] for name in model.net.state_dict()}
    model.net.load_state_dict(trunk)
    model.eval().requires_grad_(False)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        x, y = torch.broadcast_tensors(a, b)
        return model.to(x.device)(x, y, normalize=True).flatten()

    return distance


def _dists() -> Distance:
    """DISTS by its own package, with torchvision's weights of VGG-16."""
    _published_weights("DISTS_pytorch", "VGG16_Weights")
    from DISTS_pytorch import DISTS  # pyright: ignore[reportMissingImports]

    with _quiet():
        model = DISTS().eval().requires_grad_(False)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        x, y = torch.broadcast_tensors(a, b)
        return model.to(x.device)(x, y).reshape(-1)

    return distance


# By name: how the baseline is called, and what makes it.
BASELINES: dict[str, tuple[str, Callable[[], Distance]]] = {
    "psnr": ("PSNR", lambda: negative_psnr),
    "ssim": ("SSIM", lambda: ssim_distance),
    "lpips_vgg": ("LPIPS (VGG-16)", lambda: _lpips("vgg")),
    "lpips_alex": ("LPIPS (AlexNet)", lambda: _lpips("alex")),
    "dists": ("DISTS", _dists),
}


def open_baselines(names: Iterable[str] = tuple(BASELINES)) -> tuple[dict[str, Distance], dict[str, str]]:
    """Makes the baselines that can be measured here; nothing is downloaded.

    Args:
        names: Of ``BASELINES``.

    Returns:
        Distances by name, and for the others what they need.

    Raises:
        ValueError: Unknown name.
    """
    found: dict[str, Distance] = {}
    missing: dict[str, str] = {}
    for name in names:
        if name not in BASELINES:
            raise ValueError(f"Unknown baseline {name!r}: choose from {', '.join(BASELINES)}.")
        try:
            found[name] = BASELINES[name][1]()
        except BaselineUnavailableError as error:
            missing[name] = str(error)
    return found, missing


def _published_weights(package: str, name: str) -> Path:
    """The file of torchvision's weights, where torch keeps its downloads, and a package that is installed."""
    missing = [f"the package {word} (pip install {word.replace('_', '-')})" for word in _absent("torchvision", package)]
    if "torchvision" not in _absent("torchvision"):
        from torchvision import models

        address = str(getattr(models, name).IMAGENET1K_V1.url)
        file = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[-1]
        if not missing and file.is_file():
            return file
        if not file.is_file():
            missing.append(f"torchvision's weights ({file.name} in $TORCH_HOME/hub/checkpoints)")
    raise BaselineUnavailableError(f"needs {' and '.join(missing)}")


def _absent(*packages: str) -> list[str]:
    return [package for package in packages if find_spec(package) is None]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of packages that were written for an older torchvision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
