"""Running statistics against averages kept by hand."""

import copy

import numpy as np
import pytest
import torch

from ndpp_dense import NDLinear, WhiteningConfig, hold_stats
from ndpp_dense.layers.statistics.whitening import Whitening

MOMENTUM = 0.25
EPS = 0.05


def _state(dim=3, blocks=1, **fields):
    config = WhiteningConfig(
        **{"solver": "eigh", "momentum": MOMENTUM, "eps": EPS, "sampling_stride": 1, "statistics": "ema", **fields}
    )
    return Whitening(blocks, dim, config).double().train()


def _batches(count, rows=40, dim=3):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(rows, dim)) @ rng.normal(size=(dim, dim)) + 3 * rng.normal(size=dim) for _ in range(count)]


def _feed(state, rows):
    return state(lambda _: torch.tensor(rows)[:, None, :, None])


def _root(cov):
    values, vectors = np.linalg.eigh(cov + EPS * np.eye(len(cov)))
    return (vectors / np.sqrt(values)) @ vectors.T


def test_first_ema_step_is_the_batch_itself():
    (rows,) = _batches(1)
    state = _state()
    mean, d = _feed(state, rows)
    np.testing.assert_allclose(mean[0], rows.mean(0), atol=1e-12)
    np.testing.assert_allclose(state.running_cov[0], np.cov(rows.T, bias=True), atol=1e-12)
    np.testing.assert_allclose(d[0], _root(np.cov(rows.T, bias=True)), atol=1e-10)


def test_ema_is_the_mixture_of_all_batches_with_geometric_weights():
    """Mean and covariance of the weighted union of rows: the spread of the means counts."""
    batches = _batches(6)
    state = _state()
    for rows in batches:
        mean, d = _feed(state, rows)
    weights = np.array([MOMENTUM * (1 - MOMENTUM) ** (5 - i) for i in range(6)])
    assert state.running_weight.item() == pytest.approx(weights.sum())
    weights /= weights.sum()
    expected = sum(w * rows.mean(0) for w, rows in zip(weights, batches, strict=True))
    cov = sum(w * (rows - expected).T @ (rows - expected) / len(rows) for w, rows in zip(weights, batches, strict=True))
    np.testing.assert_allclose(mean[0], expected, atol=1e-12)
    np.testing.assert_allclose(state.running_cov[0], cov, atol=1e-12)
    np.testing.assert_allclose(d[0], _root(cov), atol=1e-10)


def test_ema_uses_the_same_matrix_in_training_and_evaluation():
    state = _state(solver="newton")
    for rows in _batches(3):
        mean, d = _feed(state, rows)
    eval_mean, eval_d = _feed(state.eval(), rows)
    assert torch.equal(mean, eval_mean)
    assert torch.equal(d, eval_d)
    assert not d.requires_grad


def test_batch_uses_this_step_and_keeps_running_mean_and_matrix():
    batches = _batches(4)
    state = _state(statistics="batch")
    running_mean, running_d = np.zeros(3), np.eye(3)
    for rows in batches:
        mean, d = _feed(state, rows)
        own = _root(np.cov(rows.T, bias=True))
        np.testing.assert_allclose(mean[0], rows.mean(0), atol=1e-12)
        np.testing.assert_allclose(d[0], own, atol=1e-10)
        running_mean = (1 - MOMENTUM) * running_mean + MOMENTUM * rows.mean(0)
        running_d = (1 - MOMENTUM) * running_d + MOMENTUM * own
    np.testing.assert_allclose(state.running_mean[0], running_mean, atol=1e-12)
    np.testing.assert_allclose(state.running_whitening[0], running_d, atol=1e-10)
    eval_mean, eval_d = _feed(state.eval(), rows)
    assert torch.equal(eval_mean, state.running_mean)
    assert torch.equal(eval_d, state.running_whitening)


def test_few_rows_move_the_running_statistics_little():
    """Momentum is scaled by rows over columns below 1, and not above."""
    for rows, rate in [(3, MOMENTUM * 3 / 8), (8, MOMENTUM), (80, MOMENTUM)]:
        state = _state(dim=8, statistics="batch")
        batch = _batches(1, rows=rows, dim=8)[0]
        _feed(state, batch)
        np.testing.assert_allclose(state.running_mean[0], rate * batch.mean(0), atol=1e-12)
        assert state.running_weight.item() == pytest.approx(rate)


def test_few_rows_weigh_less_in_the_ema():
    few, many = _batches(1, rows=2, dim=8)[0], _batches(1, rows=80, dim=8)[0]
    state = _state(dim=8)
    _feed(state, few)
    mean, _ = _feed(state, many)
    first, second = MOMENTUM * 2 / 8 * (1 - MOMENTUM), MOMENTUM
    expected = (first * few.mean(0) + second * many.mean(0)) / (first + second)
    np.testing.assert_allclose(mean[0], expected, atol=1e-12)


def test_pooled_blocks_share_one_matrix():
    rng = np.random.default_rng(3)
    data = rng.normal(size=(5, 2, 3, 7)) + 1
    state = _state(blocks=2, shared_blocks=True)
    mean, _ = state(lambda _: torch.tensor(data))
    pooled = data.transpose(0, 1, 3, 2).reshape(-1, 3)
    np.testing.assert_allclose(mean[0], pooled.mean(0), atol=1e-12)
    np.testing.assert_allclose(state.running_cov[0], np.cov(pooled.T, bias=True), atol=1e-12)


@pytest.mark.parametrize("statistics", ["batch", "ema"])
@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_change_nothing(statistics, rows):
    state = _state(statistics=statistics)
    before = copy.deepcopy(dict(state.named_buffers()))
    for _ in range(2):
        mean, d = _feed(state, np.ones((rows, 3)))
        assert torch.equal(mean, before["running_mean"])
        assert torch.equal(d, before["running_whitening"])
        for name, buffer in state.named_buffers():
            assert torch.equal(buffer, before[name]), name
        _feed(state, _batches(1)[0])
        before = copy.deepcopy(dict(state.named_buffers()))


@pytest.mark.parametrize("statistics", ["batch", "ema"])
def test_held_statistics_stay(statistics):
    layer = NDLinear(6, 4, config=WhiteningConfig(statistics=statistics))
    layer(torch.randn(50, 6))
    before = copy.deepcopy(layer.state_dict())
    with hold_stats(layer):
        with hold_stats(layer):
            layer(torch.randn(50, 6) + 2)
        layer(torch.randn(50, 6) + 2)  # the inner block does not end the outer one
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    layer(torch.randn(50, 6) + 2)
    assert not torch.equal(layer.whitening.running_mean, before["whitening.running_mean"])


def test_held_batch_statistics_are_still_this_step_s():
    rows, other = _batches(2)
    state = _state(statistics="batch")
    _feed(state, rows)
    state.hold()
    mean, _ = _feed(state, other)
    np.testing.assert_allclose(mean[0], other.mean(0), atol=1e-12)


def test_float32_statistics_of_a_distant_mean_become_exact():
    """The running mean is the shift: after some steps mean/std = 50 costs nothing."""
    rng = np.random.default_rng(0)
    state = _state(statistics="batch", momentum=0.5).float()
    for _ in range(12):
        rows = (rng.normal(size=(20000, 3)) + 50).astype(np.float32)
        _, d = _feed(state, rows)
    exact = _root(np.cov(rows.astype(np.float64).T, bias=True))
    assert np.abs(d[0].double().numpy() - exact).max() < 1e-5


@pytest.mark.parametrize(
    ("positions", "stride", "asked"),
    [
        (100, 3, [3]),  # 34 * 34 rows of the 32 that 8 columns want
        (18, 3, [3]),  # 6 * 6
        (15, 3, [3, 2]),  # 5 * 5: every second position gives 8 * 8
        (8, 5, [5, 1]),  # 2 * 2
        (4, 3, [3, 1]),  # even all 4 * 4 are too few
        (0, 3, [3]),  # nothing to be had
    ],
)
def test_too_few_sampled_rows_ask_for_a_denser_sample(positions, stride, asked):
    seen = []

    def data(sampling):
        seen.append(sampling)
        return torch.randn(1, 1, 8, len(range(0, positions, sampling)) ** 2, dtype=torch.float64)

    _state(dim=8, sampling_stride=stride, statistics="batch")(data)
    assert seen == asked


@pytest.mark.parametrize(("momentum", "enough"), [(0.1, 8), (0.25, 8), (0.5, 16), (1.0, 32), (None, 32)])
def test_an_average_wants_the_fewer_rows_of_a_step_the_further_it_reaches_back(momentum, enough):
    for rows, denser in ((enough, False), (enough - 1, True)):
        seen = []

        def data(sampling, rows=rows, seen=seen):
            seen.append(sampling)
            return torch.randn(1, 1, 8, rows, dtype=torch.float64)

        state = _state(dim=8, sampling_stride=3, **({} if momentum is None else {"momentum": momentum}))
        if momentum is None:
            state.restart_average()
        state(data)
        assert (len(seen) > 1) == denser
