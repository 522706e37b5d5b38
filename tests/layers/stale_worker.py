"""One rank of a gloo group training under ``"stale"`` on its share of the samples; run by test_stale_ranks.py."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ndpp_dense import WhiteningConfig, convert_to_ndpp, synchronize_stats
from ndpp_dense.distributed.leave import leave

STEPS = 4
SPLITS = {"4 and 4": (4, 4), "3 and 5": (3, 5), "8 and 0": (8, 0), "0 and 8": (0, 8)}


class Network(nn.Module):
    """A body and a head that may be left out."""

    def __init__(self, sampling_stride: int = 2, sync: bool = True, schedule: str = "stale") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2), nn.Tanh())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Conv2d(4, 4, 1), nn.Flatten(2), nn.Linear(16, 3))
        config = WhiteningConfig(schedule=schedule, sampling_stride=sampling_stride, sync=sync)
        convert_to_ndpp(self, config, {"*": True})
        self.double()

    def forward(self, x: torch.Tensor, head: bool = True) -> torch.Tensor:
        """Maps ``(N, 4, 12, 12)`` to a loss by sample, ``(N,)``."""
        y = self.body(x)
        return (self.head(y) if head else y).flatten(1).square().sum(1)


def samples(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 4, 12, 12, dtype=torch.float64, generator=generator)
    return x * torch.rand(8, 1, 1, 1, dtype=torch.float64, generator=generator) + 0.5


def descend(model: nn.Module, ranks: int) -> None:
    """A step down the gradient of all ranks together."""
    with torch.no_grad():
        for p in model.parameters():
            grad = torch.zeros_like(p) if p.grad is None else p.grad
            if ranks > 1:
                dist.all_reduce(grad)
            p -= 1e-4 * grad
            p.grad = None


def train(model: nn.Module, part: slice, heads: tuple[bool, ...] = (True,) * STEPS, ranks: int = 1):
    """Losses by sample of every step, and what is left in the buffers."""
    losses = []
    for step, head in enumerate(heads):
        loss = model(samples(step)[part], head)
        loss.sum().backward()
        losses.append(loss.detach())
        descend(model, ranks)
    buffers = {name.removeprefix("module."): value for name, value in model.state_dict().items() if "running" in name}
    return {"losses": losses, "buffers": buffers}


def calls_of_steps(part: slice) -> list[list[torch.Size]]:
    """Sizes of what each forward and backward pass exchanges, counted at ``torch.distributed``."""
    model, calls, original = Network(), [], dist.all_reduce

    def counting(tensor, *args, **kwargs):
        calls[-1].append(tensor.shape)
        return original(tensor, *args, **kwargs)

    dist.all_reduce = counting
    try:
        for step in range(3):
            calls.append([])
            model(samples(step)[part]).sum().backward()
        calls.append([])
        model.state_dict()  # by this rank and nobody else, if it likes
        model.eval()(samples(3)[part])
        calls.append([])
        synchronize_stats(model)
    finally:
        dist.all_reduce = original
    return calls


def main(rank: int, world: int, init: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    parts = {name: (slice(0, first), slice(first, 8))[rank] for name, (first, _) in SPLITS.items()}
    results = {name: train(Network(), part, ranks=world) for name, part in parts.items()}
    part = parts["3 and 5"]
    results["few rows"] = train(Network(sampling_stride=5), parts["4 and 4"], ranks=world)
    results["not synced"] = train(Network(sync=False), part)
    results["parallel"] = train(DistributedDataParallel(Network()), part)
    heads = (True, True, rank == 0, True)  # in the third step the other rank leaves its head out
    results["head left out"] = train(Network(), part, heads, ranks=world)
    results["calls"] = calls_of_steps(part)
    torch.save(results, out)
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
