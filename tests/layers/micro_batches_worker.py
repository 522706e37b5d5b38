"""One of two gloo ranks that train on a batch of 512 in micro-batches; run by test_micro_batches_ranks.py."""

import contextlib
import sys

import torch
import torch.distributed as dist
from stale_worker import Network
from torch.nn.parallel import DistributedDataParallel

from ndpp_dense import micro_batches_of_step
from ndpp_dense.distributed.leave import leave

STEPS, BATCH = 4, 512


def samples(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 4, 6, 6, dtype=torch.float64, generator=generator)
    return x * torch.rand(BATCH, 1, 1, 1, dtype=torch.float64, generator=generator) + 0.5


def train(micro_batches: int, rank: int = 0, world: int = 1, schedule: str = "stale") -> dict:
    """Parameters and buffers after some optimizer steps, and how many sums a step needed, gradients aside."""
    network = Network(schedule=schedule)
    model = DistributedDataParallel(network) if world > 1 else network
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    calls, original = [], dist.all_reduce
    dist.all_reduce = lambda x, *args, **kwargs: (calls.append(x.numel()), original(x, *args, **kwargs))[1]
    share = BATCH // world
    try:
        for step in range(STEPS):
            calls.clear()
            own = samples(step)[rank * share : (rank + 1) * share].chunk(micro_batches)
            statistics = micro_batches_of_step(network, micro_batches, lambda own=own: network(torch.cat(own)))
            for index, part in enumerate(own):
                quiet = model.no_sync() if world > 1 and index < micro_batches - 1 else contextlib.nullcontext()
                with statistics[index], quiet:
                    (model(part).mean() / micro_batches).backward()
            optimizer.step()
            optimizer.zero_grad()
    finally:
        dist.all_reduce = original
    return {"state": network.state_dict(), "parameters": dict(network.named_parameters()), "calls": len(calls)}


def main(rank: int, world: int, init: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    torch.save({micro_batches: train(micro_batches, rank, world) for micro_batches in (1, 4)}, out)
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
