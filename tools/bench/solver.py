"""Solvers on the covariances of a network after some steps of training, and their gradients."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.case import Case, Settings, Step
from ndpp_dense import WhiteningConfig, create_backbone
from ndpp_dense.datasets.streets_scene import draw_street
from ndpp_dense.images import read_image
from ndpp_dense.layers.statistics.whitening import Whitening
from ndpp_dense.ops.inverse_sqrt import SOLVERS, newton

EPS = 1e-2
SIDE = 128  # pixels of the square images
CONFIG = WhiteningConfig(block_size_spatial=64, shared_blocks=True, eps=EPS)  # of 64, 7x7x3 = 147 and 3x3x64 = 576
SIZES = (64, 147, 576)
PEERS = {
    "newton, 5": ("newton", 5),
    "newton, 7": ("newton", 7),
    "newton, 9": ("newton", 9),
    "newton, 12": ("newton", 12),
    "quintic, 3": ("quintic", 3),
    "quintic, 4": ("quintic", 4),
    "quintic, 5": ("quintic", 5),
    "eigh": ("eigh", 0),
}
BLOCKS = {64: 8, 144: 8, 576: 1}  # of the gradients: the sizes of the presets' matrices


def solver_cases(settings: Settings) -> list[Case]:
    """Residuals, products and time on real covariances; then gradients against automatic differentiation."""
    sizes = SIZES[:2] if settings.quick else SIZES

    def build(measure: Callable[[Tensor, str, int], float], size: int, peer: str) -> Step:
        return lambda: measure(covariances(settings)[size], *PEERS[peer])

    def solves(size: int, peer: str) -> Step:
        name, num_iters = PEERS[peer]
        matrices = covariances(settings)[size]
        return lambda: SOLVERS[name](matrices, num_iters)

    quantities = {"median residual": partial(residual, share=0.5), "largest residual": partial(residual, share=1.0)}
    cases = [
        Case(f"{what}, d = {size}", {peer: partial(build, measure, size, peer) for peer in PEERS}, what, float_of, True)
        for what, measure in {**quantities, "products": products}.items()
        for size in (sizes if what != "products" else sizes[:1])
    ]
    cases += [Case(f"time, d = {size}", {peer: partial(solves, size, peer) for peer in PEERS}) for size in sizes]
    return cases + gradient_cases(settings)


def gradient_cases(settings: Settings) -> list[Case]:
    """Forward and backward of five Newton steps by automatic differentiation and by ND++; then how far they differ."""
    ways = {"autograd": plain_newton, "ND++": newton}
    blocks = dict(list(BLOCKS.items())[: 2 if settings.quick else None])

    def build(size: int, way: str) -> Step:
        a, probe = gradient_input(size, settings)
        return lambda: torch.autograd.grad(ways[way](a, 5), a, probe)

    def error(size: int, way: str) -> Step:
        a, probe = gradient_input(size, settings)
        double = a.detach().double().requires_grad_()
        reference = torch.autograd.grad(plain_newton(double, 5), double, probe.double())[0]
        found = torch.autograd.grad(ways[way](a, 5), a, probe)[0]
        return lambda: float(torch.linalg.norm(_symmetric(found) - _symmetric(reference)) / reference.norm())

    unit = "relative error"

    def peers(make: Callable[[int, str], Step], size: int) -> dict[str, Callable[[], Step]]:
        return {way: partial(make, size, way) for way in ways}

    times = [Case(f"gradient, d = {d}", peers(build, d)) for d in blocks]
    return times + [Case(f"{unit} of the gradient, d = {d}", peers(error, d), unit, float_of, True) for d in blocks]


def float_of(step: Step) -> float:
    """What an exact step returns."""
    return float(step())  # pyright: ignore[reportArgumentType]


def plain_newton(a_GDD: Tensor, num_iters: int) -> Tensor:
    """The iteration as the paper writes it, for automatic differentiation."""
    identity = torch.eye(a_GDD.shape[-1], dtype=a_GDD.dtype, device=a_GDD.device)
    scale = 1.5 / torch.linalg.matrix_norm(a_GDD, keepdim=True)
    x, m = identity, a_GDD * scale
    for _ in range(num_iters):
        step = 1.5 * identity - 0.5 * m
        x, m = x @ step, step @ step @ m
    return x * scale.sqrt()


def gradient_input(size: int, settings: Settings) -> tuple[Tensor, Tensor]:
    """Covariances of decaying spectrum, recorded, and a symmetric gradient of their roots."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(BLOCKS[size], size, 4 * size, generator=generator)
    rows = rows * torch.logspace(0, -2, size).view(1, -1, 1)
    a = rows @ rows.mT / (4 * size) + EPS * torch.eye(size)
    probe = _symmetric(torch.randn(a.shape, generator=generator))
    return a.to(settings.device).requires_grad_(), probe.to(settings.device)


def residual(matrices: Tensor, name: str, num_iters: int, share: float) -> float:
    """Quantile ``share`` of the spectral norms of ``D C D - I``, for D solved in float32."""
    d = SOLVERS[name](matrices, num_iters).double()
    left = d @ matrices.double() @ d - torch.eye(d.shape[-1], dtype=d.dtype, device=d.device)
    return float(torch.linalg.matrix_norm(left, 2).quantile(share))


class _Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in ("bmm", "mm", "baddbmm", "baddbmm_", "addmm")
        return func(*args, **(kwargs or {}))


def products(matrices: Tensor, name: str, num_iters: int) -> float:
    """Matrix products of a solve."""
    with _Products() as counter:
        SOLVERS[name](matrices[:1], num_iters)
    return float(counter.count)


@lru_cache(maxsize=2)
def covariances(settings: Settings) -> dict[int, Tensor]:
    """Covariances, ``eps`` added, of a ResNet-18 that was taught to tell its images apart; by size, ``(G, D, D)``."""
    batch, steps = (4, 3) if settings.quick else (8, 10)
    torch.manual_seed(0)
    model = create_backbone("resnet18", num_classes=batch, ndpp=CONFIG).to(settings.device)
    x = torch.stack(list(islice(pictures(settings.images), batch))).to(settings.device)
    labels = torch.arange(len(x), device=x.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    found: dict[int, list[Tensor]] = {size: [] for size in SIZES}
    for module in model.modules():
        if isinstance(module, Whitening) and module.running_cov.shape[-1] in found:
            size = module.running_cov.shape[-1]
            found[size].append(module.running_cov + EPS * torch.eye(size, device=x.device))
    return {size: torch.cat(matrices) for size, matrices in found.items()}


def pictures(folder: Path | None) -> Iterator[Tensor]:
    """Images ``(3, SIDE, SIDE)`` about zero: the files of a folder, or street scenes.

    Raises:
        FileNotFoundError: The folder has no JPEG or PNG files.
    """
    from PIL import Image

    if folder is None:
        rng = np.random.default_rng(0)
        while True:
            yield _tensor(Image.fromarray(draw_street(SIDE, rng).image))
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise FileNotFoundError(f"--images {folder}: no .jpg or .png files there.")
    for path in files:
        yield _tensor(read_image(path))


def _tensor(image: Any) -> Tensor:
    pixels = np.asarray(image.resize((SIDE, SIDE)), dtype=np.float32)
    return torch.from_numpy((pixels - 116) / 58).permute(2, 0, 1)


def _symmetric(a: Tensor) -> Tensor:
    return 0.5 * (a + a.mT)
