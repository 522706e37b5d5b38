import pytest
import torch

from ndpp_dense.ops.precision import full_precision, statistics_dtype


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_statistics_dtype(dtype, expected):
    assert statistics_dtype(torch.zeros(1, dtype=dtype)) == expected


def test_autocast_is_off_inside_and_on_again_after():
    a = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision(a.device):
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16


def _fail_without_tf32():
    assert not torch.backends.cuda.matmul.allow_tf32
    raise RuntimeError("inside")


def test_tf32_is_off_inside_and_restored_after_an_error():
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        matmul.allow_tf32 = True
        with pytest.raises(RuntimeError, match="inside"), full_precision(torch.device("cuda")):
            _fail_without_tf32()
        assert matmul.allow_tf32
    finally:
        matmul.allow_tf32 = before
