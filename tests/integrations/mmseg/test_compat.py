"""The shims must be needed, work, and do nothing where they are not."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="mmengine is not installed")

from ndpp_dense.integrations.mmseg import compat

pytestmark = pytest.mark.mmseg
ROOT = Path(__file__).resolve().parents[3]


SHIMMED = """
import importlib.util
from ndpp_dense.integrations.mmseg.compat import import_ops_uncompiled
import_ops_uncompiled()
import mmseg.models, torch
from mmcv.ops.nms import NMSop
print(importlib.util.find_spec("mmcv._ext"))
NMSop.apply(torch.zeros(1, 4), torch.zeros(1), 0.5, 0, 0.0, 1)
"""


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    return result.returncode, result.stderr + result.stdout


@pytest.mark.skipif(importlib.util.find_spec("mmcv._ext") is not None, reason="mmcv has compiled ops")
def test_mmseg_imports_without_compiled_ops_only_through_the_shim():
    code, text = run("import mmseg.models")
    assert code == 1
    assert "mmcv._ext" in text
    code, text = run(SHIMMED)
    assert code == 1
    assert "None\n" in text
    assert "NotImplementedError: mmcv's compiled operation 'nms'" in text


def test_compiled_ops_are_left_alone(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.delitem(sys.modules, "mmcv.ops", raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail("imported the ops itself"))
    compat.import_ops_uncompiled()


def test_two_owners_of_mmcv_are_named(monkeypatch):
    from ndpp_dense.integrations.mmengine import compat as owners

    installed = {"mmcv-lite": "2.1.0", "onedl-mmcv": "2.3.2", "mmsegmentation": "1.2.2"}

    def version(name):
        if name not in installed:
            raise owners.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(owners, "version", version)
    monkeypatch.setattr(compat, "import_ops_uncompiled", lambda: pytest.fail("imported the ops of a broken mmcv"))
    with pytest.raises(ImportError, match="mmcv-lite 2.1.0 and onedl-mmcv 2.3.2 both install the module 'mmcv'"):
        compat.prepare_mmseg()
