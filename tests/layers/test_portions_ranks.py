"""A batch of 512 at once, in portions, and on two ranks: the same update."""

from pathlib import Path

import portions_worker as worker
import pytest
import torch


@pytest.fixture(scope="module")
def whole():
    return worker.train(1)


@pytest.fixture(scope="module")
def ranks(run_ranks):
    return run_ranks(Path(__file__).with_name("portions_worker.py"))


def assert_equal(found, whole):
    assert found["state"].keys() == whole["state"].keys()
    for name, value in whole["state"].items():
        torch.testing.assert_close(
            found["state"][name], value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_sixteen_portions_are_the_batch(whole):
    assert_equal(worker.train(16), whole)


@pytest.mark.parametrize("portions", [1, 4])
def test_two_ranks_with_and_without_portions_are_one_process(ranks, whole, portions):
    for rank in ranks:
        assert_equal(rank[portions], whole)
        assert rank[portions]["calls"] == 1  # one exchange a step, in the last portion


def test_under_fresh_portions_are_not_the_batch():
    """What the first portion alone gives for statistics, so that the figure above means something."""
    name = "body.0.whitening.running_cov"
    parts, batch = (worker.train(portions, schedule="fresh")["state"][name] for portions in (16, 1))
    assert not torch.allclose(parts, batch, rtol=1e-4)
