"""One rank of a small gloo group; run by test_collectives.py."""

import sys

import torch
import torch.distributed as dist

from ndpp_dense.distributed.leave import leave
from ndpp_dense.ops.collectives import sum_over_ranks, world_size
from ndpp_dense.ops.moments import data_moments, sum_moments_over_ranks

DATA = torch.randn(7, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SPLIT = [slice(0, 2), slice(2, 7)]


def weighted(total: torch.Tensor) -> torch.Tensor:
    """Some function that is not linear in the sum."""
    return (total.sin() * torch.arange(1.0, total.numel() + 1, dtype=total.dtype).view_as(total)).sum()


def loss_of(data: torch.Tensor, rank: int) -> torch.Tensor:
    """Every rank uses the sum in a loss of its own; the loss of the run is their sum."""
    return weighted(sum_over_ranks(data.square().sum(0))) * (rank + 1)


def finite_difference(rank: int, step: float = 1e-6) -> torch.Tensor:
    """Central differences of the summed loss with respect to this rank's data, entry by entry on all ranks."""
    out = []
    for owner, part in enumerate(SPLIT):
        grad = torch.zeros_like(DATA[part])
        for index in range(grad.numel()):
            values = []
            for sign in (1, -1):
                data = DATA[SPLIT[rank]].clone()
                if owner == rank:
                    data.view(-1)[index] += sign * step
                loss = loss_of(data, rank).detach()
                dist.all_reduce(loss)
                values.append(loss)
            grad.view(-1)[index] = (values[0] - values[1]) / (2 * step)
        out.append(grad)
    return out[rank]


def main(rank: int, world: int, init: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    data = DATA[SPLIT[rank]].clone().requires_grad_()
    loss_of(data, rank).backward()
    result = {"grad": data.grad, "numeric": finite_difference(rank), "world": world_size()}
    constant = sum_over_ranks(torch.ones(3))  # a rank without graph of its own takes part in backward all the same
    result["connected"] = constant.requires_grad
    mixed = torch.full((3,), 2.0, requires_grad=rank == 0)
    sum_over_ranks(mixed).sum().backward()
    result["mixed"] = mixed.grad
    with torch.no_grad():
        kept = torch.ones(3)
        result["no_grad"] = sum_over_ranks(kept)
        result["kept"] = kept
    shift = torch.ones(2, 3, dtype=torch.float64)
    result["moments"] = tuple(m.detach() for m in sum_moments_over_ranks(data_moments(DATA[SPLIT[rank]], shift)))
    group = dist.new_group([rank], use_local_synchronization=True)
    result["alone"] = sum_over_ranks(torch.ones(2), group)
    torch.save(result, out)
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
