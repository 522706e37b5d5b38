import pytest
import torch

from ndpp_dense.layers.local_scale import inverse_magnitude
from ndpp_dense.ops.unit_magnitude import unit_magnitude

SHAPES = {"maps": ((3, 4, 5, 6), (1, 2, 3)), "rows": ((7, 2, 6), (-1,)), "none": ((0, 4, 5), (1, 2))}


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(("shape", "dims"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)]
)
def test_values_and_gradients_are_those_of_autograd(shape, dims, rectified, dtype, tolerance):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    results = []
    for by_hand in (True, False):
        leaf = values.clone().requires_grad_()
        x = leaf.relu() if rectified else leaf * 1
        y = unit_magnitude(x, inverse_magnitude(x, dims).detach(), dims) if by_hand else x * inverse_magnitude(x, dims)
        y.to(dtype).backward(upstream)
        results.append((y.to(dtype), leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=tolerance, atol=tolerance)


def test_the_gradient_that_it_is_given_is_left_as_it_was():
    x, upstream = torch.randn(2, 3, 4, 4).relu().requires_grad_(), torch.randn(2, 3, 4, 4)
    before = upstream.clone()
    unit_magnitude(x, inverse_magnitude(x, (1, 2, 3)).detach(), (1, 2, 3)).backward(upstream)
    assert torch.equal(upstream, before)
