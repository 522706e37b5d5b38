"""One rank of a gloo group making its statistics equal; run by test_statistics.py."""

import sys

import torch
import torch.distributed as dist
from torch import nn

from ndpp_dense import NDConv2d, NDLinear, WhiteningConfig, synchronize_stats, update_stats
from ndpp_dense.distributed.leave import leave


def model(sync: bool, statistics: str = "ema") -> nn.Sequential:
    torch.manual_seed(0)
    config = WhiteningConfig(sync=sync, statistics=statistics, sampling_stride=1, solver="eigh")
    return nn.Sequential(NDConv2d(3, 4, 1, config=config), nn.Flatten(), NDLinear(4 * 16, 5, config=config)).double()


def batches(rank: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(3 + 4 * rank, 3, 4, 4, dtype=torch.float64, generator=generator) + rank for _ in range(3)]


def main(rank: int, world: int, init: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    results = {}
    alone = model(sync=False)
    for batch in batches(rank):
        alone(batch)
    results["before"] = {name: buffer.clone() for name, buffer in alone.named_buffers()}
    synchronize_stats(alone)
    results["after"] = dict(alone.named_buffers())
    together = model(sync=True)
    update_stats(together, batches(rank), num_batches=3)
    results["updated"] = dict(together.named_buffers())
    synchronize_stats(nn.ReLU())  # nothing to exchange, and no collective that the others would wait for
    torch.save(results, out)
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
