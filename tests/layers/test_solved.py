"""A D that is not finite is not stored, whoever solves it; statistics are defined where memory is new."""

import pytest
import torch
from stale_nets import batch, make_net
from torch import nn

from ndpp_dense import NDConv2d, NDConvTranspose2d, NDLinear, WhiteningConfig, nd_layers, settle_stats, update_stats
from ndpp_dense.layers.statistics import exchange
from ndpp_dense.layers.statistics.whitening import Whitening
from ndpp_dense.ops import inverse_sqrt

FAR = {"local_scale": "none", "num_iters": 5, "sampling_stride": 1}


def far(step, shape, mean=1e6):
    """Inputs whose covariance about another point is lost in float32: it comes out with negative eigenvalues."""
    return torch.randn(64, *shape, generator=torch.Generator().manual_seed(step)) + mean


@pytest.mark.parametrize("solver", ["newton", "quintic", "eigh"])
@pytest.mark.parametrize("schedule", ["fresh", "batch", "full", "every=2", "stale", "stale together"])
@pytest.mark.parametrize("mean", [1e6, 1e4, 1e8])
def test_data_far_from_zero_leave_every_buffer_finite(solver, schedule, mean, monkeypatch):
    if schedule == "stale together":
        original = exchange._batches
        monkeypatch.setattr(exchange, "_batches", lambda shares, device: original(shares, torch.device("cuda")))
        monkeypatch.setattr(exchange, "_is_local", lambda share: False)
        monkeypatch.setattr(exchange.Exchange, "_singly", lambda self: False)
    grad = "full" if schedule == "full" else "detached"
    fields = {"statistics": "batch", "grad": grad} if schedule in ("batch", "full") else {}
    fields |= {"schedule": schedule.split()[0]} if schedule.startswith(("every", "stale")) else {}
    torch.manual_seed(0)
    layers = [NDConv2d(16, 8, 3, config=WhiteningConfig(solver=solver, **FAR, **fields)), nn.Flatten()]
    model = nn.Sequential(*layers, NDLinear(8 * 16, 3, config=WhiteningConfig(solver=solver, **FAR, **fields)))
    for step in range(3):
        x = far(step, (16, 6, 6), mean).requires_grad_()
        y = model(x)
        y.sum().backward()
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    settle_stats(model)
    for name, buffer in model.named_buffers():
        assert torch.isfinite(buffer).all(), name


@pytest.mark.parametrize("kind", ["fresh", "batch", "full", "general", "stale", "stale together", "update_stats"])
def test_a_solver_that_fails_for_a_block_leaves_its_d_and_no_other(kind, monkeypatch):
    """And D follows again as soon as it is solved."""
    statistics = (
        {"statistics": "batch", "grad": "full" if kind == "full" else "detached"} if kind in ("batch", "full") else {}
    )
    schedule = "stale" if kind.startswith("stale") else "fresh"
    config = WhiteningConfig(block_size_linear=2, schedule=schedule, **statistics)
    torch.manual_seed(0)
    layer = NDLinear(6, 3, config=config)
    if kind == "general":
        monkeypatch.setattr(Whitening, "values_are_at_hand", lambda self: False)
    if kind == "stale together":
        original = exchange._batches
        monkeypatch.setattr(exchange, "_batches", lambda shares, device: original(shares, torch.device("cuda")))
        monkeypatch.setattr(exchange, "_is_local", lambda share: False)
        monkeypatch.setattr(exchange.Exchange, "_singly", lambda self: False)
    for _ in range(2):
        layer(torch.randn(50, 6))
    settle_stats(layer)
    before, newton, calls = layer.whitening.running_whitening.clone(), inverse_sqrt.SOLVERS["newton"], []

    def failing(a, num_iters):
        good = torch.ones(len(a), 1, 1)
        good[len(calls) + 1 if len(a) == 1 else 1 :][:1] = float("nan") if len(a) > 1 else 1.0
        return newton(a, num_iters) * good

    monkeypatch.setitem(inverse_sqrt.SOLVERS, "newton", failing)
    x = torch.randn(50, 6, requires_grad=True)
    if kind == "update_stats":
        update_stats(layer, [x.detach()])
    else:
        layer(x).sum().backward()
        assert torch.isfinite(x.grad).all()
    settle_stats(layer)
    after = layer.whitening.running_whitening
    assert [torch.equal(a, b) for a, b in zip(after, before, strict=True)] == [False, True, False]
    monkeypatch.setitem(inverse_sqrt.SOLVERS, "newton", newton)
    layer(torch.randn(50, 6))
    settle_stats(layer)
    assert not torch.equal(layer.whitening.running_whitening[1], before[1])


@pytest.mark.parametrize(
    "eps", [0.0, 1e-46, 1e-40, 1e-30, 1e17, 1e39, 1e300, 10**400, float("inf"), float("nan"), -1.0]
)
def test_an_eps_whose_square_float32_does_not_hold_is_refused(eps):
    with pytest.raises(ValueError, match=r"eps = .* \(a number from 1e-18 to 1e\+16"):
        WhiteningConfig(eps=eps)


@pytest.mark.parametrize("solver", ["newton", "quintic", "eigh"])
@pytest.mark.parametrize("eps", [1e-18, 1e16, 1])
def test_the_outermost_eps_are_solved(solver, eps):
    layer = NDLinear(600, 2, config=WhiteningConfig(eps=eps, solver=solver, block_size_linear=600))
    for x in (torch.randn(700, 600), torch.zeros(700, 600)):
        assert torch.isfinite(layer(x)).all()
    assert torch.isfinite(layer.whitening.running_whitening).all()
    assert torch.isfinite(layer.whitening.solve(torch.zeros(1, 600, 600))).all()


MAKERS = {
    "conv": lambda config: NDConv2d(4, 4, 3, config=config),
    "transposed": lambda config: NDConvTranspose2d(4, 4, 2, 2, config=config),
    "linear": lambda config: NDLinear(6, 4, config=config),
    "model": lambda config: make_net(config.schedule).float(),
}


@pytest.mark.parametrize("schedule", ["fresh", "every=3", "stale"])
@pytest.mark.parametrize("maker", MAKERS)
def test_memory_given_to_a_meta_module_holds_new_statistics(maker, schedule, monkeypatch):
    config = WhiteningConfig(schedule=schedule)
    new = MAKERS[maker](config)
    monkeypatch.setattr(
        torch, "empty_like", lambda t, device=None, **_: torch.full(t.shape, 7, dtype=t.dtype, device=device)
    )
    module = MAKERS[maker](config).to("meta").to_empty(device="cpu")
    for name, buffer in new.named_buffers():
        assert torch.equal(module.get_buffer(name), buffer), name


def test_the_protocol_of_fsdp_for_modules_without_memory():
    """Every module that has tensors of its own is given memory, and then told to fill it."""
    model, new = make_net("every=3").to("meta"), make_net("every=3")
    for module in model.modules():
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            module.to_empty(device="cpu", recurse=False)
            module.reset_parameters()
    for name, buffer in new.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name
    assert torch.isfinite(model(batch(0))).all()


def test_statistics_can_be_reset():
    model, new = make_net("stale"), make_net("stale")
    for step in range(3):
        model(batch(step))
    for _, layer in nd_layers(model):
        layer.whitening.reset_running_stats()
    for name, buffer in new.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name
    for step in range(3):
        torch.testing.assert_close(model(batch(step)), new(batch(step)), rtol=0, atol=0)
