import pytest
import torch
import torch.nn.functional as F

from ndpp_dense.ops.patches import Window, patch_matrix

WINDOWS = {
    "1x1, strided": Window(stride=(2, 3)),
    "3x3": Window((3, 3), padding=(1, 1)),
    "sampled": Window((3, 3), (3, 3), (1, 1)),
    "sparse": Window((3, 3), (4, 4), (1, 1)),
    "dilated, oblong": Window((1, 3), (1, 2), (0, 2), (1, 2)),
}


@pytest.mark.parametrize("gradient", [True, False], ids=["recorded", "constant"])
@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "as it is"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"])
@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("name", WINDOWS)
def test_columns_are_those_of_unfold(name, samples, layout, scaled, gradient):
    window = WINDOWS[name]
    x = torch.randn(samples, 6, 9, 11).to(memory_format=layout).requires_grad_(gradient)
    scale = torch.rand(samples, 1, 1, 1) + 0.5 if scaled else None
    data = patch_matrix(x, 2, window, scale)
    columns = F.unfold(
        x if scale is None else x * scale, window.kernel_size, window.dilation, window.padding, window.stride
    )
    high, wide = window.positions(x.shape)
    torch.testing.assert_close(data, columns.view(samples, 3, 2, *window.kernel_size, high, wide))
    if gradient and samples:
        upstream = torch.randn(data.shape)
        (found,) = torch.autograd.grad(data, x, upstream)
        (wanted,) = torch.autograd.grad(columns, x, upstream.flatten(1, 4).flatten(2))
        torch.testing.assert_close(found, wanted)


def test_half_precision_becomes_the_data_type_of_statistics():
    x = torch.randn(2, 4, 5, 5, dtype=torch.bfloat16)
    assert patch_matrix(x, 4, WINDOWS["3x3"]).dtype == torch.float32
    assert patch_matrix(x.double(), 4, WINDOWS["3x3"]).dtype == torch.float64
