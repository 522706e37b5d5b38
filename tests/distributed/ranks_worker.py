"""One of two ranks: hashes of buffers, compressed gradients. Run by test_ranks.py."""

import logging
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ndpp_dense import NDConv2d, WhiteningConfig, nd_layers
from ndpp_dense.distributed.compression import compress_gradients
from ndpp_dense.distributed.equal_buffers import unequal_layers, warn_if_unequal
from ndpp_dense.distributed.leave import leave


def network():
    torch.manual_seed(0)
    plain, own = WhiteningConfig(schedule="every=2"), WhiteningConfig(sync=False)
    return nn.Sequential(NDConv2d(3, 8, 3, config=plain), NDConv2d(8, 8, 1), NDConv2d(8, 4, 1, config=own))


def gradients(rank, dtype):
    model = DistributedDataParallel(network())
    compress_gradients(model, dtype)
    model(torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(rank))).square().mean().backward()
    return {name: p.grad for name, p in model.module.named_parameters()}


def main(rank, world, init, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    said = []
    logging.getLogger("ndpp_dense").addHandler(type("Ear", (logging.Handler,), {"emit": lambda _, r: said.append(r)})())
    model = network()
    model(torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(rank)))
    found = {"equal": unequal_layers(model)}
    warn_if_unequal(model)
    found["silent"] = len(said)
    buffer = list(nd_layers(model))[1][1].whitening.running_cov
    if rank == 1:  # the last bit of one number
        buffer.view(torch.int32)[0, 2, 3] ^= 1
    found["bit"] = unequal_layers(model)
    if rank == 1:  # two numbers in exchange
        buffer.view(torch.int32)[0, 2, 3] ^= 1
        buffer[0, 1, 1], buffer[0, 2, 2] = buffer[0, 2, 2].item(), buffer[0, 1, 1].item()
    found["exchange"] = unequal_layers(model)
    warn_if_unequal(model)
    found["said"] = [record.getMessage() for record in said]
    found["full"], found["half"] = gradients(rank, ""), gradients(rank, "bfloat16")
    torch.save(found, out)
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
