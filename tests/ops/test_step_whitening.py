import pytest
import torch

from ndpp_dense.ops.inverse_sqrt import newton
from ndpp_dense.ops.moments import Moments, mean_and_covariance
from ndpp_dense.ops.step_whitening import Fallback, step_whitening

EPS, ITERATIONS = 1e-2, 4


def problem(dtype=torch.float64, rows=40, count=None):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(3, rows, 5, generator=generator, dtype=dtype) + 0.5
    total, outer = data.sum(1).requires_grad_(), (data.mT @ data).requires_grad_()
    eye = torch.eye(5, dtype=dtype).repeat(3, 1, 1)
    stored = Fallback(torch.randn(3, 5, generator=generator, dtype=dtype), 2 * eye, 0.5 * eye)
    return Moments(rows if count is None else count, total, outer), stored


def plain(moments, stored):
    mean, cov = mean_and_covariance(moments, stored.mean)
    return mean, newton(cov + EPS * torch.eye(5, dtype=cov.dtype), ITERATIONS)


def gradients(outputs, moments):
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, [moments.total, moments.outer], upstream)


@pytest.mark.parametrize("count", [None, torch.tensor(40.0, dtype=torch.float64)], ids=["number", "sum over ranks"])
def test_values_and_gradients_are_those_of_the_steps_one_by_one(count):
    moments, stored = problem(count=count)
    found, expected = step_whitening(moments, torch.tensor(True), stored, EPS, ITERATIONS), plain(moments, stored)
    torch.testing.assert_close(found, expected)
    # A second moment is symmetric, so of a gradient by it only the symmetric part counts.
    (by_total, by_outer), (total, outer) = gradients(found, moments), gradients(expected, moments)
    torch.testing.assert_close(by_total, total)
    torch.testing.assert_close(by_outer + by_outer.mT, outer + outer.mT)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_usable_gives_what_is_stored_and_no_gradient(bad):
    moments, stored = problem()
    with torch.no_grad():
        moments.outer[1], moments.total[1, 2] = bad, bad
    found = step_whitening(moments, torch.tensor(False), stored, EPS, ITERATIONS)
    torch.testing.assert_close(found, (stored.mean, stored.whitening), rtol=0, atol=0)
    assert not any(gradient.any() for gradient in gradients(found, moments))


def test_a_block_that_is_not_solved_keeps_its_d_and_the_others_follow():
    moments, stored = problem()
    with torch.no_grad():
        moments.outer[1] = float("nan")
    mean, whitening = step_whitening(moments, torch.tensor(True), stored, EPS, ITERATIONS)
    assert [torch.equal(a, b) for a, b in zip(whitening, stored.whitening, strict=True)] == [False, True, False]
    by_total, by_outer = gradients((mean, whitening), moments)
    assert torch.isfinite(by_total).all()
    assert [bool(gradient.any()) for gradient in by_outer] == [True, False, True]
