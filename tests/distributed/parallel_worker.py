"""One of two gloo ranks that train the same network under every kind of data parallelism; run by test_parallel.py."""

import logging
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ndpp_dense import WhiteningConfig, convert_to_ndpp, nd_layers
from ndpp_dense.distributed.leave import leave

STEPS = 5
CONFIGS = {
    "fresh": WhiteningConfig(),
    "stale": WhiteningConfig(schedule="stale"),
    "paper": WhiteningConfig.paper().override({"block_size": 4, "block_size_spatial": 4}),  # sums in backward, too
}


class Network(nn.Module):
    """A body, a head, and a head that no loss asks for if told so."""

    def __init__(self, config: WhiteningConfig) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2), nn.Tanh())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
        self.idle = nn.Conv2d(4, 2, 1)
        convert_to_ndpp(self, config, {"*": True})
        self.double()

    def forward(self, x: torch.Tensor, all_heads: bool = True) -> torch.Tensor:
        """Maps ``(N, 4, 9, 9)`` to a loss."""
        y = self.body(x)
        loss = self.head(y).square().mean()
        return loss + self.idle(y).square().mean() if all_heads else loss


def sharded(network: nn.Module) -> nn.Module:
    """FSDP2: every layer by itself, then what is left."""
    for _, layer in nd_layers(network):
        fully_shard(layer)
    return fully_shard(network)


KINDS = {
    "plain": DistributedDataParallel,
    "static graph": lambda network: DistributedDataParallel(network, static_graph=True),
    "unused looked for": lambda network: DistributedDataParallel(network, find_unused_parameters=True),
    "fully sharded": sharded,
}


def train(model: nn.Module, rank: int, all_heads: bool = True) -> dict[str, torch.Tensor]:
    """Losses, and what is in the state dictionary after some steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    losses = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(2 * step + rank)
        x = torch.randn(2 + rank, 4, 9, 9, dtype=torch.float64, generator=generator) + rank
        loss = model(x, all_heads)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    state = {name.removeprefix("module."): value for name, value in model.state_dict().items()}
    whole = {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}
    return {"losses": torch.stack(losses), **whole}


def main(rank: int, world: int, init: str, out: str) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    found = {
        name: {kind: train(make(Network(config)), rank) for kind, make in KINDS.items()}
        for name, config in CONFIGS.items()
    }
    config, looked = CONFIGS["stale"], KINDS["unused looked for"]
    found["idle head"] = {
        "unused looked for": train(looked(Network(config)), rank, all_heads=False),
        "fully sharded": train(sharded(Network(config)), rank, all_heads=False),
    }
    torch.save(found, out)
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
