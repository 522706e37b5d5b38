"""Two gloo ranks with different shares of the samples against one process that has them all."""

import importlib.util
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("ranks_worker.py")
_SPEC = importlib.util.spec_from_file_location("ranks_worker", WORKER)
worker = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(worker)
CASES = {name: (layer, shape, counts) for name, layer, shape, counts in worker.cases()}
SYNCED = [name for name in CASES if "not synced" not in name]


@pytest.fixture(scope="module")
def ranks(run_ranks):
    return run_ranks(WORKER)


def _joined(ranks, case):
    """What the ranks have between them: samples put together, parameter gradients added."""
    first, second = (result[case] for result in ranks)
    out = {}
    for name in first:
        if name.startswith(("output", "input")):
            out[name] = torch.cat([first[name], second[name]])
        elif "gradient" in name:
            out[name] = first[name] + second[name]
        else:
            assert torch.equal(first[name], second[name]), f"{name} differs between ranks"
            out[name] = first[name]
    return out


@pytest.mark.parametrize("case", SYNCED)
def test_two_ranks_are_one_process(ranks, case):
    layer, shape, counts = CASES[case]
    expected = worker.train(layer, shape, sum(counts), slice(None))
    joined = _joined(ranks, case)
    assert joined.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(joined[name], value, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", worker.LAYERS)
def test_without_sync_each_rank_is_a_process_of_its_own(ranks, kind):
    case = f"{kind}, not synced, 3 and 5"
    _, shape, _ = CASES[case]
    for rank, part in enumerate((slice(0, 3), slice(3, 8))):
        layer = next(layer for name, layer, *_ in worker.cases() if name == case)
        for name, value in worker.train(layer, shape, 8, part).items():
            torch.testing.assert_close(ranks[rank][case][name], value, msg=lambda m, n=name: f"{n}: {m}")


def test_distributed_data_parallel_is_one_process(ranks):
    model = worker.network()
    for step in range(worker.STEPS):
        model(worker.samples((4, 9, 9), 8, step)).square().sum().backward()
    for result in ranks:
        for name, p in model.named_parameters():
            torch.testing.assert_close(2 * result["parallel"][name], p.grad, msg=lambda m, n=name: f"{n}: {m}")
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(result["parallel"][name], buffer, msg=lambda m, n=name: f"{n}: {m}")


def test_the_cases_of_few_rows_are_what_they_say():
    """Updates of 5 + 5 samples rest on sampled rows, those of 4 + 4 on all: 16 and 144 a sample."""
    seen = {}
    for name, layer, shape, counts in worker.cases():
        if name.startswith("conv, ema") and any(split in name for split in worker.FEW_ROWS):
            matrix = layer._data_matrix(worker.samples(shape, sum(counts), 0), None, (0, 0), 3)
            blocks, columns = layer.whitening.running_mean.shape
            seen[name.split(", ", 2)[2]] = matrix.numel() // (blocks * columns), columns
    assert seen == {
        "enough and few": (192, 36),
        "few and few, enough together": (160, 36),
        "few together": (128, 36),
    }
