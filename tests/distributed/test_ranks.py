"""What two ranks must have in common, and how it travels."""

from pathlib import Path

import pytest
import torch

from ndpp_dense.distributed.compression import check_compression
from ndpp_dense.distributed.equal_buffers import unequal_layers


@pytest.fixture(scope="module")
def ranks(run_ranks):
    return run_ranks(Path(__file__).with_name("ranks_worker.py"), timeout=500)


def test_a_bit_that_differs_is_seen_by_all(ranks):
    for found in ranks:
        assert (found["equal"], found["silent"]) == ([], 0)  # the layer of its own statistics is not asked
        assert found["bit"] == found["exchange"] == ["1"]
        assert len(found["said"]) == 1
        assert "of 1 ND++ layer(s) differ between processes, first '1'" in found["said"][0]


def test_one_process_agrees_with_itself():
    assert unequal_layers(torch.nn.Linear(2, 2)) == []


def test_compressed_gradients_are_the_full_ones_in_bfloat16(ranks):
    first, second = ranks
    for name, full in first["full"].items():
        half = first["half"][name]
        assert half.dtype == torch.float32
        assert torch.equal(half, second["half"][name])
        torch.testing.assert_close(half, full, rtol=0.02, atol=0.02 * full.abs().max().item())
    assert any(not torch.equal(first["half"][name], full) for name, full in first["full"].items())


def test_float16_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="overflow above 65504.*Use bfloat16"):
        check_compression("float16")
    with pytest.raises(ValueError, match="'int8': the choices are 'bfloat16'"):
        check_compression("int8")
