"""Converted networks under the kinds of data parallelism that torch has, against plain DistributedDataParallel."""

from pathlib import Path

import pytest
import torch

CONFIGS = ("fresh", "stale", "paper")


@pytest.fixture(scope="module")
def ranks(run_ranks):
    return run_ranks(Path(__file__).with_name("parallel_worker.py"))


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", ["static graph", "unused looked for", "fully sharded"])
def test_losses_parameters_and_statistics_are_those_of_plain_ddp(ranks, config, kind):
    for found in ranks:
        assert len(found[config]["plain"]["losses"].unique()) == 5
        assert_equal(found[config][kind], found[config]["plain"])


@pytest.mark.parametrize("config", CONFIGS)
def test_ranks_end_alike(ranks, config):
    for kind, found in ranks[0][config].items():
        same = {name: value for name, value in found.items() if name != "losses"}
        assert_equal({name: ranks[1][config][kind][name] for name in same}, same)


def test_a_head_that_took_no_part_is_left_alone(ranks):
    for found in ranks:
        searched, sharded = found["idle head"].values()
        assert_equal(sharded, searched)
        assert not torch.equal(searched["idle.weight"], found["stale"]["plain"]["idle.weight"])
        assert searched["idle.whitening.running_weight"] == 0
        assert searched["head.2.whitening.running_weight"] > 0.1
