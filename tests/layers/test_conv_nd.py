"""Convolutions of one and three dimensions against the explicit product of data matrix, D and w, one by one."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from ndpp_dense import (
    NDConv1d,
    NDConv2d,
    NDConv3d,
    NDConvTranspose1d,
    NDConvTranspose2d,
    NDConvTranspose3d,
    WhiteningConfig,
    calibrate_ndpp,
    convert_to_ndpp,
    fold_ndpp,
    update_stats,
)

EXACT = WhiteningConfig(
    block_size=2,
    block_size_spatial=2,
    statistics="batch",
    solver="eigh",
    grad="full",
    eps=1e-2,
    sampling_stride=1,
    local_scale="l1",
)
CONVOLUTIONS = {
    "1d, 1": (NDConv1d, {"kernel_size": 1}),
    "1d, strided, dilated": (NDConv1d, {"kernel_size": 3, "stride": 2, "dilation": 2, "padding": 1}),
    "1d, groups": (NDConv1d, {"kernel_size": 3, "groups": 2}),
    "3d, 1": (NDConv3d, {"kernel_size": 1, "stride": 2}),
    "3d, 3": (NDConv3d, {"kernel_size": (2, 3, 2), "padding": (1, 1, 0)}),
    "3d, strided, dilated": (NDConv3d, {"kernel_size": (1, 2, 3), "stride": (1, 2, 1), "dilation": (1, 2, 1)}),
    "3d, depthwise": (NDConv3d, {"kernel_size": (3, 1, 1), "groups": 4, "padding": (1, 0, 0)}),
}
TRANSPOSED = {
    "1d, k = stride": (NDConvTranspose1d, {"kernel_size": 2, "stride": 2}),
    "1d, k = 2 stride": (NDConvTranspose1d, {"kernel_size": 4, "stride": 2, "padding": 1, "output_padding": 1}),
    "1d, groups": (NDConvTranspose1d, {"kernel_size": 3, "groups": 2, "padding": 1}),
    "2d, uneven": (NDConvTranspose2d, {"kernel_size": (4, 3), "stride": (2, 1), "padding": (1, 2)}),
    "3d, k = stride": (NDConvTranspose3d, {"kernel_size": (1, 2, 3), "stride": (1, 2, 3)}),
    "3d, uneven": (NDConvTranspose3d, {"kernel_size": (2, 4, 1), "stride": (1, 2, 1), "padding": (1, 1, 0)}),
}
ALL = {**CONVOLUTIONS, **{f"transposed {name}": case for name, case in TRANSPOSED.items()}}


def sizes(kind):
    return (9,) if "1d" in kind.__name__ else (4, 5) if "2d" in kind.__name__ else (3, 4, 3)


def made(kind, geometry, **fields):
    torch.manual_seed(0)
    layer = kind(4, 4, **geometry, config=EXACT.override(fields)).double()
    scale = torch.rand(5, *[1] * (1 + len(sizes(kind))))
    return layer, torch.randn(5, 4, *sizes(kind), dtype=torch.float64) * scale + 1


def whitened(reference, layer, windows, every):
    """Windows ``(N, P, C, taps)``, with the moments of the positions in ``every``."""
    n, p, c, taps = windows.shape
    samples = windows.reshape(n, p, 1, c, taps, 1)
    config = layer.config
    white, _ = reference.whitened(samples, samples[:, every], layer.block_size, config.shared_blocks, config.eps)
    return white.reshape(n, p, c, taps)


def expected_convolution(reference, layer, x):
    scaled = reference.local_scale(x.numpy(), layer.config.local_scale)
    padded = np.pad(scaled, [(0, 0), (0, 0), *[(p, p) for p in layer.padding]])
    taps = list(product(*map(range, layer.kernel_size)))
    out = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(padded.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ]
    positions = list(product(*map(range, out)))

    def pixel(position, tap):
        return tuple(p * s + t * d for p, s, t, d in zip(position, layer.stride, tap, layer.dilation, strict=True))

    windows = np.stack(
        [np.stack([padded[(..., *pixel(position, tap))] for tap in taps], -1) for position in positions], 1
    )
    sampling = layer.config.sampling_stride
    every = [i for i, position in enumerate(positions) if not any(p % sampling for p in position)]
    white = whitened(reference, layer, windows, every)
    weight = layer.weight.detach().numpy().reshape(4, -1, len(taps))
    per_in, per_out = weight.shape[1], 4 // layer.groups
    y = np.empty((len(x), 4, len(positions)))
    for o in range(4):
        first = o // per_out * per_in
        y[:, o] = np.einsum("npct,ct->np", white[:, :, first : first + per_in], weight[o])
    return (y + layer.bias.detach().numpy()[:, None]).reshape(len(x), 4, *out)


def expected_transposed(reference, layer, x):
    scaled = reference.local_scale(x.numpy(), layer.config.local_scale)
    axes = range(len(layer.window))
    margin = 8
    big = np.pad(scaled, [(0, 0), (0, 0), *[(margin, margin)] * len(axes)])
    out = [
        (n - 1) * s - 2 * p + k + o
        for n, s, p, k, o in zip(
            x.shape[2:], layer.stride, layer.padding, layer.kernel_size, layer.output_padding, strict=True
        )
    ]
    last = [[(i + layer.padding[a]) // layer.stride[a] for i in range(out[a])] for a in axes]
    corners = list(product(*[sorted(set(seen)) for seen in last]))
    taps = list(product(*map(range, layer.window)))

    def source(corner, tap):
        return tuple(corner[a] - layer.window[a] + 1 + tap[a] for a in axes)

    def pixel(corner, tap):
        return tuple(margin + place for place in source(corner, tap))

    windows = np.stack([np.stack([big[(..., *pixel(corner, tap))] for tap in taps], -1) for corner in corners], 1)
    white = whitened(reference, layer, windows, list(range(len(corners))))
    weight = layer.weight.detach().numpy()
    per_in, per_out = 4 // layer.groups, weight.shape[1]
    y = np.zeros((len(x), 4, *out))
    for place in product(*map(range, out)):
        corner = tuple(last[a][place[a]] for a in axes)
        z = white[:, corners.index(corner)]
        for number, tap in enumerate(taps):
            where = source(corner, tap)
            step = tuple(place[a] + layer.padding[a] - where[a] * layer.stride[a] for a in axes)
            for g in range(layer.groups):
                inputs, outputs = slice(g * per_in, (g + 1) * per_in), slice(g * per_out, (g + 1) * per_out)
                y[(slice(None), outputs, *place)] += z[:, inputs, number] @ weight[(inputs, slice(None), *step)]
    return y + layer.bias.detach().numpy().reshape(-1, *[1] * len(axes))


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_are_the_explicit_product(reference, case, shared):
    layer, x = made(*CONVOLUTIONS[case], shared_blocks=shared)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected_convolution(reference, layer, x), atol=1e-8)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions_are_the_explicit_product(reference, case, shared):
    layer, x = made(*TRANSPOSED[case], shared_blocks=shared)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected_transposed(reference, layer, x), atol=1e-8)


@pytest.mark.parametrize("kind", ["l1", "std", "none"])
@pytest.mark.parametrize("case", ["1d, groups", "3d, 1"])
def test_local_scales_and_sampling(reference, case, kind):
    layer, _ = made(*CONVOLUTIONS[case], local_scale=kind, sampling_stride=2)
    x = torch.randn(9, 4, *[12] * len(sizes(type(layer))), dtype=torch.float64) + 1
    np.testing.assert_allclose(layer(x).detach().numpy(), expected_convolution(reference, layer, x), atol=1e-8)


@pytest.mark.parametrize("case", ALL)
def test_gradcheck(case, gradcheck_layer):
    layer, x = made(*ALL[case], eps=0.05)
    gradcheck_layer(layer, x[:2])


@pytest.mark.parametrize("grad", ["full", "detached"])
@pytest.mark.parametrize(
    ("small", "large", "axis"), [(NDConv1d, NDConv2d, 2), (NDConv2d, NDConv3d, 2), (NDConv1d, NDConv3d, 2)]
)
def test_a_map_of_fewer_dimensions_is_one_of_more_with_one_row(small, large, axis, grad):
    extra = len(sizes(large)) - len(sizes(small))
    layer, x = made(small, {"kernel_size": 3, "padding": 1}, grad=grad)
    kernel = (1,) * extra + (3,) * len(sizes(small))
    other = large(4, 4, kernel, padding=tuple(k // 2 for k in kernel), config=layer.config).double()
    with torch.no_grad():
        other.weight.copy_(layer.weight.view(other.weight.shape))
        other.bias.copy_(layer.bias)
    x.requires_grad_()
    wide = x[(slice(None), slice(None), *[None] * extra)]
    y, z = layer(x), other(wide)
    torch.testing.assert_close(y, z.view(y.shape))
    (one,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
    (two,) = torch.autograd.grad(z.square().sum(), x)
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("case", ALL)
def test_conversion_starts_as_the_plain_layer_and_folds_to_the_bit(case):
    kind, geometry = ALL[case]
    plain = getattr(nn, kind.__name__.removeprefix("ND"))(4, 4, **geometry, bias=False)
    model = nn.Sequential(plain, nn.Identity())
    x = torch.randn(3, 4, *sizes(kind))
    before = plain(x)
    report = convert_to_ndpp(model, WhiteningConfig(local_scale="none"))
    assert type(model[0]) is kind
    assert report.converted == ["0"]
    assert model[0].weight is plain.weight
    torch.testing.assert_close(model.eval()(x), before)
    for scale in ("none", "l1"):
        model = nn.Sequential(kind(4, 4, **geometry, config=WhiteningConfig(local_scale=scale)))
        update_stats(model, [x, x + 1])
        model.eval()
        with torch.no_grad():
            assert torch.equal(fold_ndpp(model)(x), model(x))


@pytest.mark.parametrize("case", ALL)
def test_samples_may_be_without_a_batch_and_named(case):
    layer, x = made(*ALL[case])
    layer.eval()
    torch.testing.assert_close(layer(input=x[0]), layer(x[:1])[0])
    folded = fold_ndpp(nn.Sequential(layer))[0]
    torch.testing.assert_close(folded(input=x[0]), layer(x[:1])[0])
    assert layer(x[:0]).shape[0] == 0


@pytest.mark.parametrize(("kind", "norm"), [(nn.Conv1d, nn.BatchNorm1d), (nn.Conv3d, nn.BatchNorm3d)])
def test_norms_go_and_calibration_keeps_the_outputs(kind, norm):
    torch.manual_seed(0)
    dims = 1 if kind is nn.Conv1d else 3
    model = nn.Sequential(kind(3, 4, 3), norm(4), nn.ReLU(), kind(4, 4, 1), norm(4))
    data = [torch.randn(8, 3, *[6] * dims) for _ in range(4)]
    for x in data:
        model(x)
    model.eval()
    before = model(data[0])
    report = calibrate_ndpp(model, data, WhiteningConfig.fast().override({"local_scale": "none"}))
    assert report.dropped_norms == ["1", "4"]
    torch.testing.assert_close(model(data[0]), before, rtol=1e-3, atol=1e-3)


def test_a_model_of_video_converts_whole():
    from torchvision.models.video import r3d_18

    with torch.device("meta"):
        model = r3d_18()
    report = convert_to_ndpp(model)
    assert report.summary() == "21 layers converted to ND++, 0 left plain; 20 norms dropped, 0 kept"
