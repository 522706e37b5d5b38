"""ResNet pretraining; losses of 20 steps. In float64: rounding would grow with the steps. See splits.py."""

import importlib.util
import logging
import os
import sys
import warnings
from pathlib import Path

from splits import run_splits

warnings.filterwarnings("ignore")
import torch  # noqa: E402

from ndpp_dense.pretrain import calibration  # noqa: E402
from ndpp_dense.pretrain import trainer as training  # noqa: E402
from ndpp_dense.pretrain.config import PretrainConfig  # noqa: E402
from ndpp_dense.pretrain.images import open_images  # noqa: E402

STEPS = int(os.environ.get("NDPP_TEST_STEPS", "20"))
SHARED = os.environ.get("NDPP_TEST_SHARED") == "1"  # the numbers of processes take turns at one run, half of it each
PORTIONS = int(os.environ.get("NDPP_TEST_PORTIONS", "1"))
SPEC = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[1] / "pretrain" / "conftest.py")
tiny = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tiny)


def double(config, num_classes):
    network = build_network(config, num_classes).double()
    network.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    return network


build_network, calibration.build_network = calibration.build_network, double


def train(folder):
    changed = {"log_every": 1, "epochs": 10, "eval_every": 100, "accumulation": PORTIONS}
    if SHARED:
        folder, changed["save_every"] = folder.parent / "shared", STEPS // 2
    changed["ndpp"] = {**tiny.SETTINGS["ndpp"], "schedule": os.environ.get("NDPP_TEST_SCHEDULE", "fresh")}
    config = PretrainConfig(**{**tiny.SETTINGS, **changed})
    run = training.Pretrainer(config, *open_images(folder.parent / "images"), torch.device("cpu"), folder)
    run.total = STEPS
    if SHARED and not run.resume():
        run.total = STEPS // 2
    run.train()
    return {"losses": [loss for _, loss, _ in run.state.record.losses]}


if __name__ == "__main__":
    logging.disable(logging.INFO)
    images = Path(sys.argv[1]) / "images"
    if not images.exists():
        tiny.write_tree(images)
    run_splits(train)
