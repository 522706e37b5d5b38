"""Statistics of the step before on two gloo ranks, against one process that has all samples."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ndpp_dense import nd_layers

WORKER = Path(__file__).with_name("stale_worker.py")
_SPEC = importlib.util.spec_from_file_location("stale_worker", WORKER)
worker = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(worker)


@pytest.fixture(scope="module")
def ranks(run_ranks):
    return run_ranks(WORKER)


def _assert_equal(ranks, case, expected):
    for step, losses in enumerate(expected["losses"]):
        joined = torch.cat([result[case]["losses"][step] for result in ranks])
        torch.testing.assert_close(joined, losses, msg=lambda m, step=step: f"step {step}: {m}")
    for name, value in expected["buffers"].items():
        for result in ranks:
            torch.testing.assert_close(result[case]["buffers"][name], value, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(ranks[0][case]["buffers"][name], ranks[1][case]["buffers"][name]), name


@pytest.mark.parametrize("case", worker.SPLITS)
def test_two_ranks_are_one_process(ranks, case):
    _assert_equal(ranks, case, worker.train(worker.Network(), slice(None)))


def test_equal_shares_with_few_rows_are_one_process(ranks):
    """Every fifth of 12 x 12 positions is 9 rows a sample: 72 of all samples, of the 144 that 36 columns want."""
    _assert_equal(ranks, "few rows", worker.train(worker.Network(sampling_stride=5), slice(None)))


def test_without_sync_each_rank_is_a_process_of_its_own(ranks):
    for result, part in zip(ranks, (slice(0, 3), slice(3, 8)), strict=True):
        expected = worker.train(worker.Network(sync=False), part)
        torch.testing.assert_close(result["not synced"]["losses"], expected["losses"])


def test_distributed_data_parallel_keeps_buffers_equal(ranks):
    first, second = (result["parallel"]["buffers"] for result in ranks)
    assert len(first) == 16
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(value > 0.3 for name, value in first.items() if name.endswith("running_weight"))


def test_a_rank_that_leaves_layers_out_does_not_keep_the_others_waiting(ranks):
    first, second = (result["head left out"]["buffers"] for result in ranks)
    everywhere = ranks[0]["3 and 5"]["buffers"]
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["head.3.whitening.running_mean"], everywhere["head.3.whitening.running_mean"])


def test_a_step_is_one_collective_of_triangles(ranks):
    model = worker.Network()
    shapes = [layer.whitening.running_mean.shape for _, layer in nd_layers(model)]
    assert len(shapes) == 4
    triangles = sum(1 + blocks * dim + blocks * dim * (dim + 1) // 2 for blocks, dim in shapes)
    full = sum(1 + blocks * dim + blocks * dim * dim for blocks, dim in shapes)
    for result in ranks:
        first, second, third, saved, synchronized = result["calls"]
        assert len(first) == len(shapes)  # the first step is that of "fresh"
        assert second == third == [torch.Size([triangles])]
        assert saved == []
        assert len(synchronized) == 1
    assert triangles < 0.6 * full  # of 16 to 36 columns; of 64 it is 0.51


def test_the_same_rows_and_a_step_late(ranks):
    """What all of this is about: other schedules give other numbers."""
    fresh = worker.train(worker.Network(schedule="fresh"), slice(None))
    losses = torch.cat([result["3 and 5"]["losses"][1] for result in ranks])
    assert not torch.allclose(losses, fresh["losses"][1], rtol=1e-3)
