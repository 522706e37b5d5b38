"""Statistics of a whole model: re-estimated, frozen, held, made equal."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ndpp_dense import NDConv2d, NDLinear, WhiteningConfig, freeze_stats, hold_stats, synchronize_stats, update_stats

WORKER = Path(__file__).with_name("statistics_worker.py")
EPS = 0.05
CONFIG = WhiteningConfig(solver="eigh", eps=EPS, sampling_stride=1, local_scale="none")


def _state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def _equal(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("statistics", ["ema", "batch"])
def test_update_is_the_pooled_covariance_of_all_rows(statistics):
    layer = NDLinear(6, 4, config=CONFIG.override({"statistics": statistics})).double()
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(rows, 6)) * 3 + 10 * rng.normal(size=6) for rows in (50, 7, 2, 200)]
    layer(torch.randn(30, 6, dtype=torch.float64) - 5)  # what was there before must not count
    assert update_stats(layer, [torch.tensor(b) for b in batches]) == 4
    rows = np.concatenate(batches)
    cov = np.cov(rows.T, bias=True)
    values, vectors = np.linalg.eigh(cov + EPS * np.eye(6))
    state = layer.whitening
    np.testing.assert_allclose(state.running_mean[0], rows.mean(0), atol=1e-10)
    np.testing.assert_allclose(state.running_cov[0], cov, atol=1e-9)
    np.testing.assert_allclose(state.running_whitening[0], (vectors / np.sqrt(values)) @ vectors.T, atol=1e-9)
    assert state.running_weight == 1
    assert state.momentum == CONFIG.momentum


def test_training_goes_on_from_the_new_statistics():
    """After a re-estimation the next ema step moves them by the momentum, not to the batch."""
    layer = NDLinear(6, 4, config=CONFIG).double()
    data = torch.randn(100, 6, dtype=torch.float64)
    update_stats(layer, [data])
    step = torch.randn(50, 6, dtype=torch.float64) + 4
    layer(step)
    torch.testing.assert_close(layer.whitening.running_mean[0], 0.9 * data.mean(0) + 0.1 * step.mean(0))


def _mixed_model():
    torch.manual_seed(0)
    return nn.Sequential(
        NDConv2d(3, 4, 3, config=CONFIG), nn.BatchNorm2d(4), nn.Dropout(0.5), NDConv2d(4, 4, 3, config=CONFIG)
    )


def test_update_leaves_modes_parameters_and_batch_norm_alone():
    model = _mixed_model().eval()
    model[2].train()
    modes, before = [m.training for m in model.modules()], _state(model)
    batches = [torch.randn(4, 3, 9, 9) + 1 for _ in range(5)]
    assert update_stats(model, batches, num_batches=3) == 3
    assert [m.training for m in model.modules()] == modes
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    states = ("running_mean", "running_cov", "running_whitening", "running_weight")
    assert changed == {f"{layer}.whitening.{name}" for layer in (0, 3) for name in states}
    assert all(p.grad is None for p in model.parameters())


def test_update_draws_no_more_than_asked():
    model, drawn = _mixed_model(), []

    def data():
        for i in range(10):
            drawn.append(i)
            yield {"image": torch.randn(2, 3, 9, 9)}

    assert update_stats(model, data(), num_batches=2, forward=lambda m, batch: m(batch["image"])) == 2
    assert drawn == [0, 1]


def test_update_needs_data():
    model = _mixed_model()
    model(torch.randn(4, 3, 9, 9))
    before = _state(model)
    with pytest.raises(ValueError, match="update_stats got no batch"):
        update_stats(model, iter([]))
    with pytest.raises(ValueError, match="num_batches >= 1, got 0"):
        update_stats(model, [1], num_batches=0)
    assert _equal(model, before)


def test_update_keeps_what_was_there_when_nothing_usable_comes():
    model = nn.Sequential(NDLinear(6, 4, config=CONFIG))
    model(torch.randn(40, 6))
    before = _state(model)
    assert update_stats(model, [torch.zeros(0, 6), torch.full((9, 6), float("nan"))]) == 2
    assert _equal(model, before)


def test_update_restores_everything_after_an_error():
    model = _mixed_model().eval()
    with pytest.raises(RuntimeError):
        update_stats(model, [torch.randn(2, 3, 9, 9), torch.randn(2, 7, 9, 9)])
    assert not any(m.training for m in model.modules())
    assert model[0].whitening.momentum == CONFIG.momentum
    assert torch.isfinite(model[0].whitening.running_whitening).all()


def test_frozen_layers_are_not_updated():
    model = _mixed_model()
    assert freeze_stats(model[0]) == 1
    before = _state(model[0])
    update_stats(model, [torch.randn(4, 3, 9, 9)])
    model.train()(torch.randn(4, 3, 9, 9))
    assert _equal(model[0], before)
    assert model[3].whitening.running_weight > 0
    freeze_stats(model)
    assert update_stats(model, []) == 0
    assert freeze_stats(model, False) == 2
    model(torch.randn(4, 3, 9, 9))
    assert not _equal(model[0], before)


def test_hold_ends_with_its_block_whatever_happens():
    model = _mixed_model()
    before = _state(model[0])
    with hold_stats(model):
        model(torch.randn(4, 3, 9, 9))
    with pytest.raises(RuntimeError, match="channels"), hold_stats(model):
        model(torch.randn(4, 7, 9, 9))
    assert _equal(model[0], before)
    model(torch.randn(4, 3, 9, 9))
    assert not _equal(model[0], before)


def test_synchronize_is_nothing_in_one_process():
    model = _mixed_model()
    before = _state(model)
    synchronize_stats(model)
    assert _equal(model, before)


@pytest.fixture(scope="module")
def worker():
    spec = importlib.util.spec_from_file_location("statistics_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(run_ranks):
    return run_ranks(WORKER)


def test_synchronize_makes_two_ranks_equal(ranks):
    first, second = ranks
    assert not torch.equal(first["before"]["0.whitening.running_mean"], second["before"]["0.whitening.running_mean"])
    for name, value in first["after"].items():
        assert torch.equal(value, second["after"][name])
        weight_name = f"{name.rpartition('.')[0]}.running_weight"
        one, two = (1.0, 1.0) if name == weight_name else (r["before"][weight_name] for r in ranks)
        want = (one * first["before"][name] + two * second["before"][name]) / (one + two)
        torch.testing.assert_close(value, want)


def test_update_on_two_ranks_is_the_update_of_all_samples(ranks, worker):
    model = worker.model(sync=True)
    update_stats(model, [torch.cat(pair) for pair in zip(worker.batches(0), worker.batches(1), strict=True)])
    for name, value in model.named_buffers():
        for result in ranks:
            torch.testing.assert_close(result["updated"][name], value, msg=lambda m, n=name: f"{n}: {m}")
