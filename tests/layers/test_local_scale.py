import pytest
import torch

from ndpp_dense.calibration.weights import scale_sums
from ndpp_dense.layers import NDConv2d, WhiteningConfig
from ndpp_dense.layers.folded import fold_layer
from ndpp_dense.layers.local_scale import FLOOR, local_scale

DIMS = (1, 2, 3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("statistics", ["batch", "ema"])
def test_l1_makes_a_layer_blind_to_the_scale_of_each_sample(kind, training, statistics):
    make, shape = kind
    layer = make(WhiteningConfig(statistics=statistics)).double().train(training)
    x = torch.randn(12, *shape, dtype=torch.float64)
    factors = torch.logspace(-3, 4, 12, dtype=torch.float64).view(-1, *[1] * len(shape))
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    y = layer(x)
    layer.load_state_dict(state)
    torch.testing.assert_close(layer(factors * x), y)


@pytest.mark.parametrize("local_scale", ["none", "std"])
def test_without_l1_the_scale_matters(kind, local_scale):
    make, shape = kind
    layer = make(WhiteningConfig(local_scale=local_scale)).eval()
    x = torch.randn(4, *shape) + 1
    same = torch.allclose(layer(1e-4 * x), layer(x), atol=1e-3)  # std: its eps counts at 1e-4
    assert not same


def test_a_sample_below_the_floor_is_left_unscaled():
    x = torch.stack([torch.full((2, 3, 3), value) for value in (0.0, 0.99 * FLOOR, 1.01 * FLOOR, -4.0)])
    _, scale = local_scale("l1").apply(x, DIMS)
    torch.testing.assert_close(scale.flatten(), torch.tensor([1.0, 1.0, 1 / (1.01 * FLOOR), 0.25]))


def test_an_empty_sample_has_a_finite_gradient(kind):
    make, shape = kind
    layer = make(WhiteningConfig(statistics="batch", grad="full"))
    x = torch.randn(6, *shape)
    x[0] = 0
    x.requires_grad_()
    layer(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_l1_is_the_mean_magnitude_in_float32():
    x = torch.full((1, 64, 32, 32), 6e4, dtype=torch.bfloat16)  # the sum is beyond the digits of bfloat16
    y, scale = local_scale("l1").apply(x, DIMS)
    assert y is x
    assert scale.dtype == torch.float32
    torch.testing.assert_close(scale.flatten(), 1 / x[0, 0, 0, :1].float())


@pytest.mark.parametrize("dims", [(1, 2, 3), (-1,)])
def test_std_standardises_each_sample(dims):
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64) * 7 + 5
    y, scale = local_scale("std").apply(x, dims)
    assert scale is None
    expected = (x - x.mean(dims, keepdim=True)) / (x.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(y, expected)
    assert local_scale("std").apply(x.bfloat16(), dims)[0].dtype == torch.bfloat16


def test_none_returns_the_input():
    x = torch.randn(2, 3)
    assert local_scale("none").apply(x, (-1,)) == (x, None)


@pytest.mark.parametrize("kind_of_scale", ["l1", "std"])
def test_gradcheck(kind_of_scale):
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: tuple(t for t in local_scale(kind_of_scale).apply(x, DIMS) if t is not None), x
    )


@pytest.mark.parametrize("magnitude", [2e-6, 6e4])
def test_float16_input_is_scaled_itself(magnitude):
    """The factor of a dark sample, 5e5, is beyond float16, as is a convolution's output for a bright one."""
    x = torch.full((1, 64, 32, 32), magnitude, dtype=torch.float16)
    y, scale = local_scale("l1").apply(x, DIMS)
    assert scale is None
    torch.testing.assert_close(y, torch.ones_like(x), rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", ["l2", "L1", "", None])
def test_an_unknown_scale_is_refused_wherever_it_comes_from(name):
    layer = NDConv2d(4, 4, 3)
    folded = fold_layer(layer)
    object.__setattr__(layer.config, "local_scale", name)
    folded.local_scale = name
    for use in (
        lambda: local_scale(name),
        lambda: layer(torch.rand(2, 4, 5, 5)),
        lambda: folded(torch.rand(2, 4, 5, 5)),
        lambda: fold_layer(layer),
        lambda: scale_sums(layer, torch.rand(2, 4, 5, 5)),
    ):
        with pytest.raises(ValueError, match=f"local_scale {name!r}.*'l1', 'std', 'none'"):
            use()
