"""A batch of 512 at once, in micro-batches, and on two ranks: the same update."""

from pathlib import Path

import micro_batches_worker as worker
import pytest
import torch


@pytest.fixture(scope="module")
def whole():
    return worker.train(1)


@pytest.fixture(scope="module")
def ranks(run_ranks):
    return run_ranks(Path(__file__).with_name("micro_batches_worker.py"))


def assert_equal(found, whole):
    assert found["state"].keys() == whole["state"].keys()
    for name, value in whole["state"].items():
        torch.testing.assert_close(
            found["state"][name], value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_sixteen_micro_batches_are_the_batch(whole):
    assert_equal(worker.train(16), whole)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_two_ranks_with_and_without_micro_batches_are_one_process(ranks, whole, micro_batches):
    for rank in ranks:
        assert_equal(rank[micro_batches], whole)
        assert rank[micro_batches]["calls"] == 1  # one exchange a step, in the last micro-batch


def test_under_fresh_micro_batches_are_not_the_batch():
    """What the first micro-batch alone gives for statistics, so that the figure above means something."""
    name = "body.0.whitening.running_cov"
    parts, batch = (worker.train(micro_batches, schedule="fresh")["state"][name] for micro_batches in (16, 1))
    assert not torch.allclose(parts, batch, rtol=1e-4)
