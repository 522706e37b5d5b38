"""MMEngine's room must be of use to every project on MMEngine: it may not need MMSegmentation or MMCV."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="mmengine is not installed")
pytestmark = pytest.mark.mmseg
ROOT = Path(__file__).resolve().parents[3]

ALONE = """
import sys
sys.modules.update(dict.fromkeys(("mmseg", "mmcv")))  # importing them raises
import ndpp_dense.integrations.mmengine
from mmengine.registry import HOOKS, MODELS, WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
hooks = ["NaNGuard", "Stats", "Resume", "Stop", "Load"]
missing = [name for name in hooks if HOOKS.get(f"NDPP{name}Hook") is None]
missing += [name for name in ("NDConv2d", "NDConvTranspose2d", "NDLinear", "NoNorm") if MODELS.get(name) is None]
missing += [] if WEIGHT_INITIALIZERS.get("Pretrained").__module__.startswith("ndpp_dense") else ["Pretrained"]
missing += [] if CheckpointLoader._schemes.get("ndpp://") else ["ndpp://"]
print("missing:", missing)
print("conv:", MODELS.build(dict(type="NDConv2d", in_channels=4, out_channels=4, kernel_size=1, bias=False)))
"""


def test_it_registers_everything_where_mmseg_cannot_be_imported():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "missing: []\n" in done.stdout
    assert "conv: NDConv2d(" in done.stdout
