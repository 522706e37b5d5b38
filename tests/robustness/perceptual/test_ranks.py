import importlib.util
from pathlib import Path

import torch

WORKER = Path(__file__).with_name("ranks_worker.py")


def test_ranks_with_unequal_shares_find_the_mean_of_all_pairs(run_ranks):
    spec = importlib.util.spec_from_file_location("perceptual_ranks_worker", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    expected = worker.MeanAbsolute()(*worker.images()).mean()
    for saved in run_ranks(WORKER):
        torch.testing.assert_close(saved["mean"], expected)
        torch.testing.assert_close(saved["again"], expected)
