"""Trains on argv[1] into argv[2] with the settings in argv[3]; kills itself in the step after argv[4] steps."""

import json
import os
import signal
import sys

import torch

from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.images import open_images
from ndpp_dense.pretrain.trainer import Pretrainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    tree, output, settings, steps = sys.argv[1:]
    run = Pretrainer(PretrainConfig(**json.loads(settings)), *open_images(tree), torch.device("cpu"), output)
    advance = run.state.advance

    def killed(loss):
        if run.state.done == int(steps):
            os.kill(os.getpid(), signal.SIGKILL)
        advance(loss)

    run.state.advance = killed
    run.train()
