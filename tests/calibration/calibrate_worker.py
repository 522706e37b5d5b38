"""One rank of a gloo group calibrating a model; run by test_calibrate_input.py."""

import sys

import torch
import torch.distributed as dist
from torch import nn

from ndpp_dense import WhiteningConfig, calibrate_ndpp


def model() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).double()
    made(batches(0)[0])
    return made


def batches(rank: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(8 + 4 * rank, 3, 4, 4, dtype=torch.float64, generator=generator) * (1 + rank) for _ in range(2)]


def config() -> WhiteningConfig:
    return WhiteningConfig(sampling_stride=1, block_size_linear=4)


def main(rank: int, world: int, init: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    calibrated = model()
    calibrate_ndpp(calibrated, batches(rank), config())
    torch.save(calibrated.state_dict(), out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
