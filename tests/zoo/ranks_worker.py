"""Every rank resolves the toy: RANK WORLD INIT OUT, with the index in the environment; what happened is saved."""

import os
import sys

import torch
import torch.distributed as dist

from ndpp_dense.distributed.leave import leave
from ndpp_dense.zoo import Patience, ZooError, load_index, resolve

if __name__ == "__main__":
    rank, world, init, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    os.environ["NDPP_HOME"] = os.environ["NDPP_HOMES"].split(os.pathsep)[rank]
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    try:
        result = str(resolve("toy", index=load_index(), patience=Patience(attempts=1)))
    except ZooError as error:
        result = f"error: {error}"
    torch.save(result, out)
    leave()
