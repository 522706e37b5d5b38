"""Layers that update on every T-th step: when, to what, and that nothing but such a step moves them on."""

import copy
import io
import re

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from ndpp_dense import NDConv2d, NDLinear, WhiteningConfig, convert_to_ndpp, freeze_stats, hold_stats, update_stats
from ndpp_dense.layers import nd_layers
from ndpp_dense.layers.statistics.schedule import Schedule, UpdateInterval
from ndpp_dense.layers.statistics.whitening import Whitening

EVERY = WhiteningConfig(schedule="every=3")
STEPS = 8


def _net(schedule="every=3", layers=4, **fields):
    """A converted network of convolutions and one linear layer."""
    torch.manual_seed(0)
    convs = [module for _ in range(layers - 1) for module in (nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())]
    model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    convert_to_ndpp(model, WhiteningConfig(schedule=schedule, **fields), {"*": True})
    return model.double()


def _input(step):
    return torch.randn(8, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step)) + step


def _train(model, steps):
    """Losses of plain gradient descent."""
    losses = []
    for step in steps:
        loss = model(_input(step)).square().sum()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 1e-3 * p.grad
                p.grad = None
        losses.append(loss.item())
    return losses


@pytest.fixture
def solved(monkeypatch):
    """Whitening modules in the order in which they solve."""
    seen, solve = [], Whitening.solve
    monkeypatch.setattr(Whitening, "solve", lambda self, cov: seen.append(self) or solve(self, cov))
    return seen


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("fresh", Schedule(1, stale=False)),
        ("stale", Schedule(1, stale=True)),
        ("every=2", Schedule(2, stale=False)),
        ("every=10", Schedule(10, stale=False)),
    ],
)
def test_a_schedule_is_parsed(text, parsed):
    assert Schedule.parse(text) == parsed
    assert parsed.fresh == (text == "fresh")


@pytest.mark.parametrize(
    "text", ["every=1", "every=02", "every=", "every=2.5", "every=-3", "often", "", 3, None, ["stale"]]
)
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(ValueError, match=f"schedule = {re.escape(repr(text))}"):
        Schedule.parse(text)


@pytest.mark.parametrize("period", [2, 3, 5])
def test_first_step_and_then_every_t_th(period):
    turns = UpdateInterval(period)
    assert [step for step in range(4 * period) if turns.take()] == list(range(0, 4 * period, period))


def test_layers_of_a_model_update_together(solved):
    model = _net(layers=7)
    states = {layer.whitening for _, layer in nd_layers(model)}
    for step in range(STEPS):
        before = len(solved)
        _train(model, [step])
        assert set(solved[before:]) == (states if step % 3 == 0 else set())


def test_other_steps_ask_for_no_data_and_use_what_is_stored():
    state = Whitening(1, 3, EVERY).double()
    rows = torch.randn(40, 1, 3, 1, dtype=torch.float64) + 2
    state(lambda _: rows)
    stored = {name: b.clone() for name, b in state.named_buffers() if name.startswith("running")}
    for _ in range(2):
        mean, whitening = state(lambda _: pytest.fail("asked for data"))
        assert torch.equal(mean, stored["running_mean"])
        assert torch.equal(whitening, stored["running_whitening"])
    assert not torch.equal(whitening[0], torch.eye(3, dtype=torch.float64))
    asked = []
    state(lambda sampling: asked.append(sampling) or rows)
    assert asked


def test_the_average_reaches_as_many_steps_back():
    """Data that stay for T steps from an update on give what they give when each step updates."""
    fresh, every = (
        Whitening(1, 3, WhiteningConfig(schedule=s, sampling_stride=1)).double() for s in ("fresh", "every=3")
    )
    for step in range(12):
        torch.manual_seed(step // 3)
        rows = torch.randn(40, 1, 3, 1, dtype=torch.float64) * 2 + step // 3
        fresh(lambda _, rows=rows: rows)
        every(lambda _, rows=rows: rows)
    for name in ("running_weight", "running_mean", "running_cov", "running_whitening"):
        torch.testing.assert_close(getattr(every, name), getattr(fresh, name), rtol=1e-10, atol=1e-10)


def test_constant_data_give_the_same_matrix():
    fresh, every = (NDLinear(6, 4, config=WhiteningConfig(schedule=s)).double() for s in ("fresh", "every=4"))
    every.load_state_dict(fresh.state_dict())
    x = torch.randn(50, 6, dtype=torch.float64)
    for _ in range(9):
        torch.testing.assert_close(every(x), fresh(x), rtol=1e-10, atol=1e-10)


def test_only_updating_steps_move_the_schedule_on():
    model = _net()
    _train(model, [0])
    phases = {name: b.clone() for name, b in model.named_buffers() if name.endswith("phase")}
    assert len(phases) == 4

    def unmoved():
        return all(torch.equal(b, phases[name]) for name, b in model.named_buffers() if name in phases)

    with hold_stats(model):
        model(_input(1))
    assert unmoved()
    model.eval()(_input(1))
    assert unmoved()
    model.train()
    freeze_stats(model)
    model(_input(1))
    freeze_stats(model, False)
    assert unmoved()
    weights = [layer.whitening.running_mean.clone() for _, layer in nd_layers(model)]
    update_stats(model, [_input(2), _input(3)])
    assert unmoved()
    assert not any(
        torch.equal(m, layer.whitening.running_mean) for m, (_, layer) in zip(weights, nd_layers(model), strict=True)
    )
    _train(model, [1])
    assert not unmoved()


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_is_no_step(reentrant):
    plain, checkpointed = _net(), _net()
    for step in range(5):
        x = _input(step)
        plain(x.clone().requires_grad_()).square().sum().backward()
        checkpoint(checkpointed, x.clone().requires_grad_(), use_reentrant=reentrant).square().sum().backward()
        for p, q in zip(plain.parameters(), checkpointed.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-7, atol=1e-9)
        for (name, p), q in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
            torch.testing.assert_close(q, p, msg=lambda m, name=name: f"{name}: {m}")


def test_a_step_without_rows_is_a_step():
    layer = NDConv2d(4, 4, 1, config=EVERY)
    for left in (2, 1, 0, 2):
        layer(torch.randn(0, 4, 5, 5))
        assert layer.whitening.turns.phase == left


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_resume_between_updates_is_exact_to_the_bit(stop):
    model = _net()
    losses = _train(model, range(STEPS))
    first = _net()
    resumed = _train(first, range(stop))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = _net()
    second.load_state_dict(torch.load(file), assign=stop == 2)
    resumed += _train(second, range(stop, STEPS))
    assert resumed == losses
    for name, value in model.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_checkpoints_load_strictly_whatever_schedule_wrote_them():
    fresh, every = _net("fresh"), _net("every=3")
    assert not [name for name in fresh.state_dict() if "phase" in name]
    assert sorted(every.state_dict().keys() - fresh.state_dict().keys()) == [
        f"{name}.whitening.turns.phase" for name, _ in nd_layers(every)
    ]
    _train(every, range(2))
    fresh.load_state_dict(every.state_dict())
    torch.testing.assert_close(fresh.eval()(_input(5)), every.eval()(_input(5)))
    other = _net("every=3")
    before = [layer.whitening.turns.phase.clone() for _, layer in nd_layers(other)]
    other.load_state_dict(fresh.state_dict())
    assert [layer.whitening.turns.phase for _, layer in nd_layers(other)] == before  # its own count
    with pytest.raises(RuntimeError, match="running_mean"):
        other.load_state_dict({n: t for n, t in every.state_dict().items() if "running_mean" not in n})


def test_a_checkpoint_of_a_longer_period_waits_no_longer_than_the_own():
    long, short = _net("every=7"), _net("every=2")
    _train(long, range(4))  # three steps are left, of which two are a period
    short.load_state_dict(long.state_dict())
    assert {int(layer.whitening.turns.phase) for _, layer in nd_layers(short)} == {1}


def test_what_is_written_to_the_buffer_before_the_first_step_counts():
    """As DistributedDataParallel writes rank 0's, which may have loaded a checkpoint alone."""
    model, other = _net(), _net()
    _train(model, range(2))
    with torch.no_grad():
        for mine, theirs in zip(other.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
    turns, others = ([layer.whitening.turns for _, layer in nd_layers(net)] for net in (model, other))
    for _ in range(4):
        assert [t.take() for t in others] == [t.take() for t in turns]


def test_a_checkpoint_of_every_step_loads_into_a_layer_without_memory():
    with torch.device("meta"):
        turns = UpdateInterval(3)
    turns.load_state_dict({}, assign=True)
    assert [turns.take() for _ in range(4)] == [True, False, False, True]


def test_a_count_below_zero_is_due():
    """Such were written when layers were dealt out over the steps."""
    turns = UpdateInterval(3)
    turns.load_state_dict({"phase": torch.tensor(-2)})
    assert [turns.take() for _ in range(4)] == [True, False, False, True]


def test_copies_and_casts_go_on_alike():
    model = _net()
    _train(model, range(2))
    twin = copy.deepcopy(model)
    assert _train(twin, range(2, STEPS)) == _train(model, range(2, STEPS))
    for cast in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        phases = [layer.whitening.turns.to(cast).phase for _, layer in nd_layers(twin)]
        assert {phase.dtype for phase in phases} == {torch.int64}


class _Whitened(nn.Module):
    """What a layer does with its statistics."""

    def __init__(self, config):
        super().__init__()
        self.whitening = Whitening(1, 4, config)

    def forward(self, x):
        mean, whitening = self.whitening(lambda _: x[:, None, :, None])
        return (x - mean) @ whitening[0]


def test_compiled_turns_are_plain_turns_in_few_graphs(monkeypatch):
    """Without the question whether backward is running, which dynamo cannot trace and which is not the schedule's.

    From the second step on: the first reads the buffers.
    """
    monkeypatch.setattr("ndpp_dense.layers.statistics.whitening.in_backward", lambda: False)
    torch._dynamo.reset()
    plain = nn.Sequential(*[_Whitened(EVERY) for _ in range(5)])
    plain(torch.randn(30, 4))
    twin = copy.deepcopy(plain)
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(twin, backend=graphs, fullgraph=True)
    for _ in range(3 * EVERY.period + 1):
        x = torch.randn(30, 4) @ torch.randn(4, 4)
        torch.testing.assert_close(compiled(x), plain(x), rtol=1e-4, atol=1e-4)
    assert graphs.frame_count == EVERY.period
    for (name, p), q in zip(plain.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    twin.load_state_dict(plain.state_dict())  # what was loaded is what counts
    assert [layer.whitening.turns.take() for layer in twin] == [layer.whitening.turns.take() for layer in plain]
