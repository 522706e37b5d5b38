"""The sum over two gloo ranks against one process that has all the data."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ndpp_dense.ops.collectives import sum_over_ranks, world_size
from ndpp_dense.ops.moments import data_moments

WORKER = Path(__file__).with_name("collectives_worker.py")


@pytest.fixture(scope="module")
def worker():
    spec = importlib.util.spec_from_file_location("collectives_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(run_ranks):
    return run_ranks(WORKER)


def test_backward_equals_the_single_process(ranks, worker):
    data = worker.DATA.clone().requires_grad_()
    total = data.square().sum(0)
    loss = sum(worker.weighted(total) * (rank + 1) for rank in range(2))
    loss.backward()
    torch.testing.assert_close(torch.cat([r["grad"] for r in ranks]), data.grad)


def test_backward_equals_finite_differences(ranks):
    for result in ranks:
        torch.testing.assert_close(result["grad"], result["numeric"], rtol=1e-5, atol=1e-6)


def test_moments_of_unequal_ranks_are_those_of_all_rows(ranks, worker):
    expected = data_moments(worker.DATA, torch.ones(2, 3, dtype=torch.float64))
    for result in ranks:
        for got, want in zip(result["moments"], expected, strict=True):
            torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype))


def test_every_rank_is_in_the_graph(ranks):
    assert all(result["connected"] for result in ranks)
    torch.testing.assert_close(ranks[0]["mixed"], torch.full((3,), 2.0))
    assert ranks[1]["mixed"] is None


def test_without_gradients_the_input_is_left_alone(ranks):
    for result in ranks:
        assert torch.equal(result["no_grad"], torch.full((3,), 2.0))
        assert torch.equal(result["kept"], torch.ones(3))


def test_a_group_of_one_rank_sums_nothing(ranks):
    assert [result["world"] for result in ranks] == [2, 2]
    assert all(torch.equal(result["alone"], torch.ones(2)) for result in ranks)


def test_one_process_needs_no_group():
    x = torch.ones(3)
    assert world_size() == 1
    assert sum_over_ranks(x) is x
