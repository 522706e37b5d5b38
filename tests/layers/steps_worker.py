"""One of two gloo ranks under ``"every=3"`` whose first rank raises in the middle; run by test_failed_steps.py."""

import contextlib
import sys

import torch
import torch.distributed as dist
from stale_nets import batch, make_net

from ndpp_dense import nd_layers
from ndpp_dense.distributed.leave import leave

STEPS, BROKEN = 8, (1, 2, 4)  # steps that update are 0, 3 and 6: in them ranks exchange, and an error stops both


def main(rank: int, world: int, init: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    model, phases = make_net("every=3"), []
    for step in range(STEPS):
        if rank == 0 and step in BROKEN:
            handle = model[1].register_forward_pre_hook(lambda *_: 1 / 0)
            with contextlib.suppress(ZeroDivisionError):
                model(batch(step)[:4])
            handle.remove()
        else:
            model(batch(step)[4 * rank : 4 * rank + 4])
        phases.append([int(layer.whitening.turns.phase) for _, layer in nd_layers(model)])
    torch.save({"phases": phases, "state": model.state_dict()}, out)
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
