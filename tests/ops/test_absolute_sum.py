import pytest
import torch

from ndpp_dense.ops import absolute_sum as module
from ndpp_dense.ops.absolute_sum import absolute_sum, is_rectified

DIMS = (1, 2, 3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_exact_to_rounding(layout, signed, n, dtype):
    x = torch.randn(n, 64, 60, 60)
    x = (x if signed else x.relu()).to(dtype).to(memory_format=layout)
    expected = x.double().abs().sum(DIMS, keepdim=True)
    total = absolute_sum(x, DIMS)
    assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=0)
    assert torch.equal(absolute_sum(x.requires_grad_(), DIMS).detach(), total)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("chunk", [5, 60, 61, 130, 1000])
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("without_sign", [0, 2, 4])
def test_parts_of_any_size_add_up(layout, chunk, gaps, without_sign, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    monkeypatch.setattr(module, "WHOLE", 10)
    x = torch.randn(4, 3, 8, 5).to(memory_format=layout)
    x[:without_sign] = x[:without_sign].abs()
    x = x[:, :, ::2] if gaps else x[:, :, :4].clone(memory_format=torch.preserve_format)
    torch.testing.assert_close(absolute_sum(x, DIMS), x.abs().sum(DIMS, keepdim=True))


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 5, 7)])
def test_rows(shape, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    x = torch.randn(shape)
    torch.testing.assert_close(absolute_sum(x, (-1,)), x.abs().sum(-1, keepdim=True))


@pytest.mark.parametrize("whole", [0, 1 << 20])
@pytest.mark.parametrize("value", [-1.0, -0.0, -torch.inf])
def test_one_sign_among_many_is_seen(value, whole, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 50)
    monkeypatch.setattr(module, "WHOLE", whole)
    x = torch.ones(2, 3, 8, 5)
    x[1, 2, 7, 4] = value
    assert torch.equal(absolute_sum(x, DIMS), x.abs().sum(DIMS, keepdim=True))


def test_gradient_is_the_sign():
    x = torch.tensor([[-2.0, 0.0, 3.0], [0.0, 0.0, 1.0]], requires_grad=True)
    absolute_sum(x, (1,)).sum().backward()
    assert torch.equal(x.grad, x.detach().sign())


def test_gradcheck():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: absolute_sum(x, DIMS), x)
    assert torch.autograd.gradgradcheck(lambda x: absolute_sum(x, DIMS), x)


def test_empty_and_not_finite():
    assert absolute_sum(torch.empty(0, 3, 4, 4), DIMS).shape == (0, 1, 1, 1)
    x = torch.ones(2, 64, 60, 60)
    x[0, 0, 0, 0] = torch.nan
    total = absolute_sum(x, DIMS).flatten()
    assert total[0].isnan()
    assert total[1] == 64 * 60 * 60


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_a_relu_gave_is_its_own_magnitude(layout):
    z = torch.randn(3, 64, 60, 60).to(memory_format=layout).requires_grad_()
    x = z.relu()
    assert is_rectified(x)
    assert is_rectified((z * 1).relu_())
    expected = x.detach().double().sum(DIMS, keepdim=True)
    torch.testing.assert_close(absolute_sum(x, DIMS).double(), expected, rtol=1e-6, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(absolute_sum(x, DIMS).double(), expected, rtol=1e-6, atol=0)


def test_what_was_changed_since_is_not_taken_for_it():
    x = torch.randn(2, 3, requires_grad=True).relu()
    assert not is_rectified(x.detach())
    assert not is_rectified(x - 1)
    assert not is_rectified(x.sub_(1))
    assert not is_rectified(torch.randn(2, 3, requires_grad=True))


@pytest.mark.parametrize("trace", ["trace", "export"])
def test_a_traced_sum_is_as_exact_as_an_eager_one(trace):
    class Sum(torch.nn.Module):
        def forward(self, x):
            return absolute_sum(x, (1, 2, 3))

    x = torch.randn(2, 64, 128, 128)
    traced = torch.jit.trace(Sum(), x) if trace == "trace" else torch.export.export(Sum(), (x,)).module()
    exact = x.double().abs().sum((1, 2, 3), keepdim=True)
    assert ((traced(x) - exact) / exact).abs().max() < 1e-6
