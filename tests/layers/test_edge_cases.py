"""What real training brings: no samples, broken activations, half precision, copies, repeated calls."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist

from ndpp_dense import NDConv2d, NDConvTranspose2d, NDLinear, WhiteningConfig, freeze_stats
from ndpp_dense.layers import NDLayer
from ndpp_dense.layers.folded import fold_layer

BATCH_FULL = WhiteningConfig(statistics="batch", grad="full", eps=1e-2)
BATCH_DETACHED = WhiteningConfig(statistics="batch", grad="detached", eps=1e-2)
EMA = WhiteningConfig(statistics="ema")
CONFIGS = pytest.mark.parametrize("config", [BATCH_FULL, BATCH_DETACHED, EMA], ids=["full", "detached", "ema"])


def _state(layer):
    return {name: value.clone() for name, value in layer.state_dict().items()}


def _unchanged(layer, before):
    return all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@CONFIGS
@pytest.mark.parametrize("local_scale", ["l1", "std", "none"])
@pytest.mark.parametrize(
    ("make", "shape", "out"),
    [
        (lambda c: NDConv2d(256, 32, 3, padding=1, config=c), (256, 14, 14), (32, 14, 14)),
        (lambda c: NDConv2d(256, 32, 1, padding_mode="reflect", config=c), (256, 14, 14), (32, 14, 14)),
        (lambda c: NDConvTranspose2d(256, 32, 2, 2, config=c), (256, 14, 14), (32, 28, 28)),
        (lambda c: NDLinear(256, 32, config=c), (256,), (32,)),
    ],
    ids=["conv", "conv 1x1", "conv_transpose", "linear"],
)
def test_no_samples(config, local_scale, make, shape, out):
    layer = make(config.override({"local_scale": local_scale, "block_size_spatial": 2}))
    before = _state(layer)
    x = torch.zeros(0, *shape, requires_grad=True)
    y = layer(x)
    assert y.shape == (0, *out)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()
    assert _unchanged(layer, before)


@CONFIGS
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("local_scale", ["l1", "none"])
def test_a_broken_activation_does_not_reach_the_buffers(kind, config, bad, local_scale):
    make, shape = kind
    layer = make(config.override({"local_scale": local_scale, "sampling_stride": 1}))
    layer(torch.randn(16, *shape))
    before = _state(layer)
    x = torch.randn(16, *shape)
    x[3].view(-1)[5] = bad
    y = layer(x)
    assert _unchanged(layer, before)
    assert torch.isfinite(y[4:]).all()  # the other samples are whitened with what is stored
    layer(torch.randn(16, *shape))
    assert not _unchanged(layer, before)
    assert all(torch.isfinite(value).all() for value in layer.state_dict().values())


@CONFIGS
def test_a_layer_called_twice_before_backward(kind, config):
    make, shape = kind
    layer = make(config)
    first, second = torch.randn(20, *shape, requires_grad=True), torch.randn(20, *shape, requires_grad=True)
    (layer(first).square().mean() + layer(second).square().mean()).backward()
    twin = make(config)
    again = first.detach().clone().requires_grad_()
    twin(again).square().mean().backward()
    torch.testing.assert_close(first.grad, again.grad)


@CONFIGS
def test_state_dict_round_trip(kind, config):
    make, shape = kind
    layer, other = make(config), make(config)
    for _ in range(3):
        layer(torch.randn(20, *shape) + 1)
    other.load_state_dict(layer.state_dict(), strict=True)
    x = torch.randn(5, *shape)
    assert torch.equal(other.eval()(x), layer.eval()(x))
    layer.train(), other.train()
    assert torch.equal(other(x), layer(x))  # the next step too: weights of the averages are in the state
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in other.state_dict().items())


@CONFIGS
def test_a_deep_copy_is_independent_and_equal(kind, config):
    make, shape = kind
    layer = make(config)
    layer(torch.randn(20, *shape))
    twin, before = copy.deepcopy(layer), _state(layer)
    x = torch.randn(20, *shape)
    y = twin(x)
    assert _unchanged(layer, before)
    assert torch.equal(layer(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer)).eval()(x), layer.eval()(x))


def test_a_deep_copy_keeps_its_process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'init'}", rank=0, world_size=1)
    try:
        layer = NDLinear(4, 4)
        layer.whitening.process_group = dist.new_group([0])
        assert copy.deepcopy(layer).whitening.process_group is layer.whitening.process_group
    finally:
        dist.destroy_process_group()


def test_frozen_statistics_stay_frozen_and_work_as_in_evaluation(kind):
    make, shape = kind
    layer = make(BATCH_FULL)
    layer(torch.randn(20, *shape))
    assert freeze_stats(layer) == 1
    before, x = _state(layer), torch.randn(20, *shape)
    y = layer.eval()(x)
    layer.train()
    assert torch.equal(layer(x), y)
    assert _unchanged(layer, before)
    freeze_stats(layer, False)
    assert not torch.equal(layer(x), y)
    assert not _unchanged(layer, before)


def test_detached_gradients_are_those_of_a_plain_layer():
    """W' = W D with D and mean constant: dL/dW = dL/dW' D (D is symmetric), and dL/dx passes through W' only."""
    layer = NDLinear(6, 4, config=BATCH_DETACHED.override({"local_scale": "none", "block_size_linear": 6})).double()
    x, target = torch.randn(50, 6, dtype=torch.float64) + 1, torch.randn(50, 4, dtype=torch.float64)
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    (layer(one) - target).square().sum().backward()
    mean = x.mean(0)
    cov = (x - mean).T @ (x - mean) / 50
    d = layer.whitening.solve(cov[None])[0]
    plain = torch.nn.Linear(6, 4).double()
    plain.load_state_dict({"weight": layer.weight.detach() @ d, "bias": layer.bias.detach()})
    (plain(two - mean) - target).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad @ d)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)
    torch.testing.assert_close(one.grad, two.grad)


@CONFIGS
def test_under_autocast_statistics_are_those_of_float32(kind, config):
    make, shape = kind
    layer, plain = make(config), make(config)
    x = torch.randn(64, *shape) @ torch.randn(shape[-1], shape[-1]) + 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        y.float().square().mean().backward()
    exact = plain(x)
    assert y.dtype == torch.bfloat16
    for name, buffer in layer.whitening.named_buffers():
        assert torch.equal(buffer, plain.whitening.get_buffer(name)), name
    assert (y - exact).abs().mean() < 0.02 * exact.abs().mean()
    assert torch.isfinite(layer.weight.grad).all()


@CONFIGS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_float32_statistics(kind, config, dtype):
    make, shape = kind
    layer, exact = make(config), make(config)
    layer.to(dtype)
    x = torch.randn(64, *shape).to(dtype)
    exact.load_state_dict(layer.state_dict())
    y = layer(x)
    assert y.dtype == layer.weight.dtype == dtype
    assert all(buffer.dtype == torch.float32 for buffer in layer.whitening.buffers())
    cov = layer.whitening.running_cov
    torch.testing.assert_close(cov, cov.mT, rtol=0, atol=1e-6)
    want = exact(x.float())
    # float16 input is scaled before it is used, which rounds it once more
    tolerance = 1e-4 if dtype == torch.bfloat16 else 1e-3
    torch.testing.assert_close(cov, exact.whitening.running_cov, rtol=tolerance, atol=tolerance)
    assert (y - want).abs().mean() < 0.02 * want.abs().mean()
    y.float().square().mean().backward()
    assert layer.weight.grad.dtype == dtype
    assert torch.equal(fold_layer(layer)(x), layer.eval()(x))


@pytest.mark.parametrize("local_scale", ["l1", "none"])
def test_large_float16_activations_do_not_overflow_the_statistics(kind, local_scale):
    make, shape = kind
    layer = make(EMA.override({"local_scale": local_scale})).half()
    x = (torch.randn(64, *shape) * 1e4).half()
    layer(x)
    state = layer.whitening
    assert state.running_weight > 0
    expected = x.float().var().item() if local_scale == "none" else 1.57  # variance over squared mean magnitude
    variance = state.running_cov.diagonal(dim1=1, dim2=2).max().item()
    assert 0.9 * expected < variance < 1.4 * expected


@pytest.mark.parametrize("config", [BATCH_FULL, BATCH_DETACHED, EMA], ids=["full", "detached", "ema"])
def test_large_float16_activations_are_scaled_before_the_map(kind, config):
    make, shape = kind
    layer = make(config).half()
    torch.nn.init.constant_(layer.weight, 10.0)  # sums that are beyond float16 until they are scaled
    x = torch.full((64, *shape), 3e4).half().requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


def test_double_and_back(kind):
    make, shape = kind
    layer = make(EMA).double()
    assert layer(torch.randn(30, *shape, dtype=torch.float64)).dtype == torch.float64
    assert layer.float()(torch.randn(30, *shape)).dtype == torch.float32
    assert all(buffer.dtype == torch.float32 for buffer in layer.buffers())


def test_activation_is_applied(kind):
    make, shape = kind
    layer = make(EMA).eval()
    x = torch.randn(4, *shape)
    plain = layer(x)
    layer.activation = torch.nn.functional.relu
    assert torch.equal(layer(x), plain.relu())
    assert isinstance(layer, NDLayer)
