"""Statistics lent for evaluation must be good ones, and the training must not notice."""

import pytest
import torch
from torch import nn

from ndpp_dense import WhiteningConfig, convert_to_ndpp, freeze_stats, nd_layers
from ndpp_dense.layers.model_statistics import freeze_where_weights_are
from ndpp_dense.training.evaluation_stats import EvaluationStats


def batches(seed):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield 3 + torch.randn(4, 3, 8, 8, generator=generator)


def model_with(statistics):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), nn.Conv2d(4, 4, 3))
    convert_to_ndpp(model, WhiteningConfig(statistics=statistics, local_scale="none"))
    model.train()
    model(next(batches(1)))
    return model


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def test_lending_estimates_anew_and_leaves_no_trace():
    model = model_with("batch")
    before, rng = buffers(model), torch.get_rng_state()
    stats = EvaluationStats(model, batches, num_batches=8)
    stats.lend()
    lent = buffers(model)
    assert stats.lent
    assert lent["0.whitening.running_mean"].mean().item() == pytest.approx(3, abs=0.1)
    assert before["0.whitening.running_mean"].mean().item() < 1  # momentum 0.1 from 0
    stats.lend()  # a second time changes nothing: these are lent already
    assert all(torch.equal(lent[name], buffer) for name, buffer in model.named_buffers())
    stats.take_back()
    assert not stats.lent
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert torch.equal(rng, torch.get_rng_state())


def test_averaged_statistics_need_no_estimate():
    model = model_with("ema")
    before = buffers(model)
    EvaluationStats(model, lambda seed: pytest.fail("drew a batch"), num_batches=1).lend()
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_state_brings_the_runs_own_statistics_back():
    model = model_with("batch")
    before = buffers(model)
    stats = EvaluationStats(model, batches, num_batches=2)
    stats.lend()
    state = stats.state_dict()
    EvaluationStats(model, batches, num_batches=2).load_state_dict(state)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_statistics_freeze_where_weights_do():
    model = model_with("ema")
    model[0].weight.requires_grad_(False)
    assert freeze_where_weights_are(model) == ["0"]
    assert [layer.whitening.frozen for _, layer in nd_layers(model)] == [True, False]
    freeze_stats(model, False)
