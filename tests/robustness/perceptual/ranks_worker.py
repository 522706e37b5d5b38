"""One rank of a gloo group that measures its share of pairs; run by test_perceptual_ranks.py."""

import sys

import torch
import torch.distributed as dist

from ndpp_dense.distributed.leave import leave
from ndpp_dense.robustness.perceptual import MeanGapDistance

SHARES = (slice(0, 5), slice(5, 7))


class MeanAbsolute(torch.nn.Module):
    def forward(self, a, b):
        return (a - b).abs().mean(dim=(1, 2, 3))


def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 7, 3, 8, 8, generator=generator)


if __name__ == "__main__":
    rank, world, init_file, out_file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    dist.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=world)
    metric = MeanGapDistance(MeanAbsolute())
    a, b = (batch[SHARES[rank]] for batch in images())
    metric.update(a[:1], b[:1])
    metric.update(a[1:], b[1:])
    torch.save({"mean": metric.compute(), "again": metric.compute()}, out_file)
    leave()
