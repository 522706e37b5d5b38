"""Training steps of a small network in one of several processes, their exchanges counted: the measuring of plan.py."""

import statistics
import time
from collections.abc import Callable


def steps(rank: int, world: int, init: str, repeats: int) -> dict:
    """Train a few steps and time sums of two sizes.

    Args:
        rank: this process.
        world: how many there are.
        init: file through which they meet.
        repeats: steps, and sums of each size.

    Returns:
        ``step``, ``small`` and ``large`` (median seconds), ``gradients`` and ``moments`` (bytes by the model), and
        ``bytes`` that all-reduces of a step summed.
    """
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from ndpp_dense import WhiteningConfig, convert_to_ndpp, create_backbone
    from ndpp_dense.distributed.plan import work_of

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    network = create_backbone("resnet18", 10)
    convert_to_ndpp(network, WhiteningConfig.fast("imagenet"))
    work = work_of(network, 1.0)
    model = DistributedDataParallel(network, broadcast_buffers=False) if world > 1 else network
    images = torch.randn(2, 3, 64, 64)
    with _counted(model, world) as sums:
        model(images).square().mean().backward()
        size = sum(sums)
    seconds = _median(lambda: model(images).square().mean().backward(), repeats)
    small, large = torch.zeros(1), torch.zeros(work.gradient_bytes // 4)
    times = [_median(lambda t=t: dist.all_reduce(t), repeats) if world > 1 else 0.0 for t in (small, large)]
    if world > 1:
        dist.destroy_process_group()
    found = {"gradients": work.gradient_bytes, "moments": list(work.moment_bytes), "bytes": size}
    return {"step": seconds, "small": times[0], "large": times[1], **found}


def _median(run: Callable, repeats: int) -> float:
    run()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


class _counted:  # noqa: N801 - used as a function
    """Lists the bytes of every sum over ranks: statistics as they are asked for, gradients bucket by bucket."""

    def __init__(self, model, world: int) -> None:
        self.model, self.world, self.sums = model, world, []

    def __enter__(self) -> list[int]:
        import torch.distributed as dist

        self.all_reduce = dist.all_reduce

        def counting(tensor, *args, **kwargs):
            self.sums.append(tensor.numel() * tensor.element_size())
            return self.all_reduce(tensor, *args, **kwargs)

        dist.all_reduce = counting
        if self.world > 1:
            from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

            def hook(state, bucket):
                self.sums.append(bucket.buffer().numel() * bucket.buffer().element_size())
                return allreduce_hook(state, bucket)

            self.model.register_comm_hook(None, hook)
        return self.sums

    def __exit__(self, *error) -> None:
        import torch.distributed as dist

        dist.all_reduce = self.all_reduce
