"""Several processes train one network on the images that a single one would see."""

import json
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("ranks_worker.py")


def test_two_processes_train_as_one(tree, trainer, settings, run_ranks, monkeypatch, tmp_path):
    changed = {"log_every": 1, "epochs": 1, "accumulation": 2}
    monkeypatch.setenv("NDPP_TEST_TREE", str(tree))
    monkeypatch.setenv("NDPP_TEST_SETTINGS", json.dumps({**settings, **changed}))
    first, second = run_ranks(WORKER, timeout=500)
    alone = trainer(tmp_path, **changed)
    alone.train()
    assert first["results"] == second["results"]
    for kind in ("weights", "resumed"):
        assert [k for k, value in first["weights"].items() if not torch.equal(value, second[kind][k])] == []
    assert not torch.equal(first["random"], second["random"])
    assert first["losses"] == second["losses"]
    steps, losses, rates = zip(*first["losses"], strict=True)
    wanted = list(zip(*alone.state.record.losses, strict=True))
    assert (steps, rates) == (wanted[0], wanted[2])
    assert losses[0] == pytest.approx(wanted[1][0], rel=1e-4)
    assert losses == pytest.approx(wanted[1], rel=0.05)
