"""Moments against loops over windows in float64."""

import numpy as np
import pytest
import torch

from ndpp_dense.ops import moments as M
from ndpp_dense.ops.inverse_sqrt import SOLVERS
from ndpp_dense.ops.patches import Window, patch_matrix


def _window_rows(x, kernel, stride, padding, dilation):
    """Rows of the data matrix of one sample ``(C, H, W)``, one window at a time: ``(positions, C, kh, kw)``."""
    channels, height, width = x.shape
    padded = np.zeros((channels, height + 2 * padding[0], width + 2 * padding[1]))
    padded[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width] = x
    rows = []
    reach = [dilation[a] * (kernel[a] - 1) for a in (0, 1)]
    for top in range(0, padded.shape[1] - reach[0], stride[0]):
        for left in range(0, padded.shape[2] - reach[1], stride[1]):
            row = np.empty((channels, *kernel))
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    row[:, i, j] = padded[:, top + i * dilation[0], left + j * dilation[1]]
            rows.append(row)
    return np.stack(rows)


def _brute_force(x, block_size, shared, geometry, shift):
    """count, sum and outer product about ``shift`` (G, D), summed row by row."""
    rows = np.concatenate([_window_rows(sample, *geometry) for sample in x])
    blocks = [rows[:, c : c + block_size].reshape(len(rows), -1) for c in range(0, x.shape[1], block_size)]
    if shared:
        blocks = [np.concatenate(blocks)]
    total, outer = [], []
    for block, origin in zip(blocks, shift, strict=True):
        total.append(sum(row - origin for row in block))
        outer.append(sum(np.outer(row - origin, row - origin) for row in block))
    return len(blocks[0]), np.stack(total), np.stack(outer)


GEOMETRIES = {
    "1x1": ((1, 1), (1, 1), (0, 0), (1, 1)),
    "1x1 strided": ((1, 1), (2, 3), (0, 0), (1, 1)),
    "1x1 padded": ((1, 1), (1, 1), (1, 2), (1, 1)),
    "3x3": ((3, 3), (1, 1), (1, 1), (1, 1)),
    "3x2 strided, dilated, padded": ((3, 2), (2, 3), (2, 1), (2, 1)),
    "dilated": ((3, 3), (1, 2), (0, 2), (1, 2)),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"])
@pytest.mark.parametrize("recorded", [False, True], ids=["detached", "recorded"])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("block_size", [2, 6])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_moments_equal_a_loop_over_windows(geometry, block_size, shared, recorded, layout, monkeypatch):
    monkeypatch.setattr(M, "CACHE", 30_000)  # so that blocks go through it one or several at a time
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 6, 7, 8)) + 0.5
    scale = rng.uniform(0.5, 2, size=(3, 1, 1, 1))
    own = torch.tensor(x).contiguous(memory_format=layout).requires_grad_(recorded)
    data = patch_matrix(own, block_size, Window(*geometry), torch.tensor(scale))
    blocks, dim = 1 if shared else 6 // block_size, block_size * np.prod(geometry[0])
    shift = rng.normal(size=(blocks, dim))
    count, total, outer = _brute_force(x * scale, block_size, shared, geometry, shift)
    moments = M.data_moments(data, torch.tensor(shift))
    assert moments.outer.requires_grad == recorded
    assert moments.count == count
    np.testing.assert_allclose(moments.total.detach().numpy(), total, atol=1e-10)
    np.testing.assert_allclose(moments.outer.detach().numpy(), outer, atol=1e-10)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_moments_of_half_precision_are_float32(dtype, kernel):
    x = torch.randn(4, 4, 9, 9).to(dtype)
    shift = torch.randn(2, 2 * kernel[0] * kernel[1])
    for scale in (None, torch.rand(4, 1, 1, 1) + 0.5):
        found = M.data_moments(patch_matrix(x, 2, Window(kernel), scale), shift)
        exact = None if scale is None else scale.double()
        expected = M.data_moments(patch_matrix(x.double(), 2, Window(kernel), exact), shift.double())
        assert found.outer.dtype == torch.float32
        torch.testing.assert_close(found.outer.double(), expected.outer, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (3, 4)])
def test_gradient_of_the_moments(kernel, stride):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    scale = torch.rand(2, 1, 1, 1, dtype=torch.float64, generator=generator).requires_grad_()
    shift = torch.randn(2, 2 * kernel[0] * kernel[1], dtype=torch.float64, generator=generator)

    def sums(x, scale):
        return M.data_moments(patch_matrix(x, 2, Window(kernel, stride), scale), shift)[1:]

    assert torch.autograd.gradcheck(sums, (x, scale))


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_mean_and_covariance_do_not_depend_on_the_shift(shared):
    rng = np.random.default_rng(1)
    data = rng.normal(size=(5, 3, 4, 6)) * 2 + 1
    rows = [data[:, g].transpose(0, 2, 1).reshape(-1, 4) for g in range(3)]
    rows = [np.concatenate(rows)] if shared else rows
    shift = torch.tensor(rng.normal(size=(len(rows), 4)))
    mean, cov = M.mean_and_covariance(M.data_moments(torch.tensor(data), shift), shift)
    np.testing.assert_allclose(mean.numpy(), [block.mean(0) for block in rows], atol=1e-12)
    np.testing.assert_allclose(cov.numpy(), [np.cov(block.T, bias=True) for block in rows], atol=1e-12)


def test_the_shift_saves_float32_covariances():
    """At mean/std = 50 plain sums lose the covariance, sums about a nearby mean do not."""
    rng = np.random.default_rng(2)
    data = torch.tensor(rng.normal(size=(64, 1, 8, 500)) + 50, dtype=torch.float32)
    exact = torch.tensor(np.cov(data[:, 0].double().permute(0, 2, 1).reshape(-1, 8).numpy().T, bias=True))

    def error(shift):
        _, cov = M.mean_and_covariance(M.data_moments(data, shift), shift)
        return ((cov[0].double() - exact).abs().max() / exact.abs().max()).item()

    assert error(torch.zeros(1, 8)) > 1e-3
    assert error(torch.full((1, 8), 49.0)) < 1e-5


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_no_samples_give_zeros_connected_to_the_graph(kernel):
    x = torch.zeros(0, 4, 5, 5, requires_grad=True)
    data = patch_matrix(x, 2, Window(kernel))
    dim = 2 * kernel[0] * kernel[1]
    shift = torch.ones(2, dim)
    moments = M.data_moments(data, shift)
    assert moments.count == 0
    assert moments.outer.shape == (2, dim, dim)
    mean, cov = M.mean_and_covariance(moments, shift)
    assert torch.equal(mean, shift)
    assert not cov.any()
    cov.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_a_packed_triangle_comes_back_as_the_matrix(dim):
    cpu = torch.device("cpu")
    matrix = torch.randn(3, dim, dim)
    matrix = matrix + matrix.mT
    packed = matrix.flatten(1)[:, M._upper_triangle(dim, cpu)]
    assert packed.shape == (3, dim * (dim + 1) // 2)
    assert torch.equal(M._unpack_triangle(packed, dim), matrix)


def test_indices_first_needed_under_inference_mode_serve_in_training():
    cpu, dim = torch.device("cpu"), 83  # that nobody else has needed
    with torch.inference_mode():
        M._upper_triangle(dim, cpu), M._triangle_position(dim, cpu)
    matrix = torch.eye(dim)[None].requires_grad_()
    M._unpack_triangle(matrix.flatten(1)[:, M._upper_triangle(dim, cpu)], dim).sum().backward()
    torch.testing.assert_close(matrix.grad.sum(), torch.tensor(float(dim * dim)))


def test_patch_columns_are_ordered_as_a_convolution_weight():
    x, weight = torch.randn(2, 6, 5, 7, dtype=torch.float64), torch.randn(4, 6, 3, 2, dtype=torch.float64)
    data = patch_matrix(x, 3, Window((3, 2), (2, 1), (1, 0), (1, 2)))
    y = torch.einsum("ogbij,ngbijhw->nohw", weight.view(4, 2, 3, 3, 2), data)
    expected = torch.nn.functional.conv2d(x, weight, None, (2, 1), (1, 0), (1, 2))
    torch.testing.assert_close(y, expected)


def test_sums_in_bfloat16_would_be_no_covariances():
    """Why moments travel in float32: of eight ranks' sums in bfloat16, D is off by half a percent or by far more."""
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(64, 64, generator=generator))
    packed = []
    for _ in range(8):
        rows = torch.randn(1568, 64, generator=generator) * torch.logspace(0, -3, 64) @ rotation + 0.3
        packed.append(M.pack_moments(M.data_moments(rows.unsqueeze(1), torch.zeros(1, 64))))
    exact, half = sum(packed), sum((p.bfloat16() for p in packed), torch.zeros((), dtype=torch.bfloat16)).float()
    covariances = []
    for sums in (exact, half):
        count, total, outer = M.unpack_moments(sums, 1, 1, 64)
        covariances.append(M.mean_and_covariance(M.Moments(count.view(()), total, outer), torch.zeros(1, 64))[1])
    smallest = [torch.linalg.eigvalsh(cov).min() for cov in covariances]
    assert smallest[0] > -1e-5
    assert smallest[1] < -5e-3  # half of the paper's eps
    fast, other = (SOLVERS["newton"](cov + 0.1 * torch.eye(64), 3) for cov in covariances)
    assert 2e-3 < (other - fast).norm() / fast.norm() < 2e-2
