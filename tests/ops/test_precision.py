import subprocess
import sys

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


ALLOWING = {  # one process each: torch keeps the two ways of setting it apart
    "old name": ("torch.backends.cuda.matmul.allow_tf32 = True", "tf32"),
    "new name": ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "tf32"),
    "new name for all": ("torch.backends.fp32_precision = 'tf32'", "tf32"),
}
SCRIPT = """
import torch
from ndpp_dense.ops.precision import full_precision
{allow}
matmul = torch.backends.cuda.matmul
print(matmul.fp32_precision)
try:
    with full_precision(torch.device("cuda")):
        print(matmul.fp32_precision)
        raise KeyError
except KeyError:
    print(matmul.fp32_precision)
"""


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="older torch has one name only")
@pytest.mark.parametrize(("allow", "outside"), ALLOWING.values(), ids=ALLOWING.keys())
def test_tf32_is_off_inside_and_restored_after_an_error(allow, outside):
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(allow=allow)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert out[0] == out[2] == outside
    assert out[1] != "tf32"
