"""DeepLabv3 through MMEngine's DistributedDataParallel and optimizer wrapper; losses of 20 steps. See splits.py."""

import copy
import importlib.util
import logging
import os
import warnings
from pathlib import Path

from splits import run_splits

warnings.filterwarnings("ignore")
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from mmengine.model import MMDistributedDataParallel  # noqa: E402
from mmengine.optim import OptimWrapper  # noqa: E402
from mmengine.registry import MODELS, init_default_scope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

import ndpp_dense.integrations.mmseg  # noqa: E402, F401

SPEC = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[1] / "integrations/mmseg/conftest.py")
tiny = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tiny)
STEPS = int(os.environ.get("NDPP_TEST_STEPS", "20"))
BATCH = 8


def build():
    """The tests' DeepLabv3 in float64, without dropout, whose random numbers are those of a rank."""
    init_default_scope("mmseg")
    torch.manual_seed(0)
    config = copy.deepcopy(tiny.MODEL)
    config["decode_head"]["dropout_ratio"] = config["auxiliary_head"]["dropout_ratio"] = 0.0
    config["ndpp"]["verify"] = False
    model = MODELS.build(config)
    model.init_weights()
    return model.double()


def samples(step):
    generator = torch.Generator().manual_seed(step)
    for _ in range(BATCH):
        labels = torch.randint(0, 4, (1, tiny.SIDE, tiny.SIDE), generator=generator)
        shape = dict.fromkeys(("img_shape", "ori_shape", "pad_shape"), (tiny.SIDE, tiny.SIDE))
        pixels = 40 * labels.repeat(3, 1, 1) + torch.randint(0, 99, (3, tiny.SIDE, tiny.SIDE), generator=generator)
        yield pixels.byte(), SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=shape)


def train(folder):
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    model = build()
    model.data_preprocessor.mean, model.data_preprocessor.std = (
        getattr(model.data_preprocessor, name).double() for name in ("mean", "std")
    )
    parallel = MMDistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9))
    losses, share = [], slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    parallel.train()
    for step in range(STEPS):
        images, targets = zip(*list(samples(step))[share], strict=True)
        found = parallel.train_step({"inputs": list(images), "data_samples": list(targets)}, optimizer)
        loss = found["loss"].detach()
        if world > 1:
            dist.all_reduce(loss)
        losses.append(float(loss) / world)
    return {"losses": losses}


if __name__ == "__main__":
    logging.disable(logging.INFO)
    run_splits(train)
