"""Trains on NDPP_TEST_TREE with the settings NDPP_TEST_SETTINGS: worker.py RANK WORLD INIT_FILE OUT_FILE."""

import json
import os
import sys

import torch
import torch.distributed as dist

from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.images import open_images
from ndpp_dense.pretrain.trainer import Pretrainer

if __name__ == "__main__":
    rank, world, init_file, out_file = sys.argv[1:]
    torch.set_num_threads(1)
    if int(world) > 1:
        dist.init_process_group("gloo", init_method=f"file://{init_file}", rank=int(rank), world_size=int(world))
    config = PretrainConfig(**json.loads(os.environ["NDPP_TEST_SETTINGS"]))
    folder = os.path.join(os.path.dirname(init_file), "run")
    run = Pretrainer(config, *open_images(os.environ["NDPP_TEST_TREE"]), torch.device("cpu"), folder)
    results = run.train()
    again = Pretrainer(config, *open_images(os.environ["NDPP_TEST_TREE"]), torch.device("cpu"), folder)
    again.resume()
    torch.save(
        {
            "results": results,
            "losses": run.state.record.losses,
            "weights": run.state.network.state_dict(),
            "resumed": again.state.network.state_dict(),
            "random": torch.get_rng_state(),
        },
        out_file,
    )
    if dist.is_initialized():
        dist.destroy_process_group()
