"""One rank of a gloo group training a layer on its share of the samples; run by test_ranks.py."""

import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ndpp_dense import NDConv2d, NDConvTranspose2d, NDLinear, WhiteningConfig
from ndpp_dense.distributed.leave import leave
from ndpp_dense.layers import NDLayer

CONFIGS = {
    "batch full": WhiteningConfig(statistics="batch", grad="full", eps=1e-2),
    "batch full quintic": WhiteningConfig(statistics="batch", grad="full", eps=1e-2, solver="quintic"),
    "batch detached": WhiteningConfig(statistics="batch", eps=1e-2, shared_blocks=True),
    "ema": WhiteningConfig(),
    "ema of one step": WhiteningConfig(momentum=1.0),
    "every second": WhiteningConfig(schedule="every=2"),
    "not synced": WhiteningConfig(statistics="batch", grad="full", eps=1e-2, sync=False),
}
LAYERS: dict[str, tuple[Callable[[WhiteningConfig], NDLayer], tuple[int, ...]]] = {
    "conv": (lambda c: NDConv2d(4, 6, 3, padding=1, groups=2, config=c), (4, 9, 9)),
    "conv_transpose": (lambda c: NDConvTranspose2d(4, 6, 4, 2, 1, config=c), (4, 9, 9)),
    "linear": (lambda c: NDLinear(4, 6, config=c), (4,)),
}
SPLITS = {"3 and 5": (3, 5), "8 and 0": (8, 0), "0 and 8": (0, 8), "0 and 0": (0, 0)}
# 36 columns want 144 rows. Every third of 12 x 12 positions is 16 rows a sample: of 8 and 2 samples one rank has
# enough by itself; of 10 and 2 again; of 5 and 5 neither, both together 160; of 4 and 4 not even together (128).
FEW_ROWS = {"enough and few": (10, 2), "few and few, enough together": (5, 5), "few together": (4, 4)}
STEPS = 3  # of which a layer that updates at every second does so at the first and the last


def samples(shape: tuple[int, ...], count: int, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(count, *shape, dtype=torch.float64, generator=generator)
    return x * torch.rand(count, *[1] * len(shape), dtype=torch.float64, generator=generator) + 0.5


def train(layer: NDLayer, shape: tuple[int, ...], total: int, part: slice) -> dict[str, torch.Tensor]:
    """Some steps on a part of each step's samples; the loss is a sum, so that those of the ranks add up."""
    out: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        x = samples(shape, total, step)[part].requires_grad_()
        y = layer(x)
        (y.sin() + 0.1 * y.square()).sum().backward()
        out |= {f"output {step}": y.detach(), f"input gradient {step}": x.grad}
    out |= {"weight gradient": layer.weight.grad, "bias gradient": layer.bias.grad}
    return out | {f"buffer {name}": buffer for name, buffer in layer.whitening.named_buffers()}


def cases():
    """Name, layer, shape of a sample and how many samples each rank has."""
    for layer, (make, shape) in LAYERS.items():
        for config, values in CONFIGS.items():
            for split, counts in SPLITS.items():
                torch.manual_seed(0)
                yield f"{layer}, {config}, {split}", make(values).double(), shape, counts
    for config in ("batch full", "ema of one step"):
        for split, counts in FEW_ROWS.items():
            torch.manual_seed(0)
            layer = NDConv2d(4, 6, 3, config=CONFIGS[config]).double()
            yield f"conv, {config}, {split}", layer, (4, 14, 14), counts


def network() -> nn.Sequential:
    torch.manual_seed(0)
    config = CONFIGS["batch full"]
    layers = [
        NDConv2d(4, 6, 3, config=config),
        nn.ReLU(),
        NDConv2d(6, 4, 1, config=config.override({"grad": "detached"})),
    ]
    return nn.Sequential(*layers).double()


def train_in_parallel(rank: int) -> dict[str, torch.Tensor]:
    """DistributedDataParallel on 3 and 5 samples, its default options; gradients are averaged over the ranks."""
    model = DistributedDataParallel(network())
    part = (slice(0, 3), slice(3, 8))[rank]
    for step in range(STEPS):
        model(samples((4, 9, 9), 8, step)[part]).square().sum().backward()
    return {name: p.grad for name, p in model.module.named_parameters()} | dict(model.module.named_buffers())


def main(rank: int, world: int, init: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    results = {}
    for name, layer, shape, counts in cases():
        start = sum(counts[:rank])
        results[name] = train(layer, shape, sum(counts), slice(start, start + counts[rank]))
    results["parallel"] = train_in_parallel(rank)
    torch.save(results, out)
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
