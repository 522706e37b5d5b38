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
UPSTREAM = {"mmengine": "0.10.7", "mmcv-lite": "2.1.0", "mmsegmentation": "1.2.2"}
FORKS = {"onedl-mmengine": "0.10.12", "onedl-mmcv": "2.3.6", "onedl-mmsegmentation": "1.4.2"}
MIXED = {"onedl-mmengine": "0.10.12", "mmcv-lite": "2.1.0", "mmsegmentation": "1.2.2"}


def pretend(monkeypatch, table):
    """As if these distributions, by their versions, were installed and no others."""
    from ndpp_dense.integrations.mmengine import compat as owners

    def version(name):
        if name not in table:
            raise owners.PackageNotFoundError(name)
        return table[name]

    monkeypatch.setattr(owners, "version", version)
    monkeypatch.setattr(compat, "import_ops_uncompiled", lambda: None)


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
    if code:  # the maintained fork imports without
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
    table = {"mmcv-lite": "2.1.0", "onedl-mmcv": "2.3.2", "mmsegmentation": "1.2.2"}
    pretend(monkeypatch, table)
    with pytest.raises(ImportError, match="mmcv-lite 2.1.0 and onedl-mmcv 2.3.2 both install the module 'mmcv'"):
        compat.prepare_mmseg()


def test_all_that_is_there_twice_is_named_with_one_command(monkeypatch):
    pretend(monkeypatch, {**UPSTREAM, **FORKS})
    command = (
        "pip uninstall -y mmengine onedl-mmengine mmcv-lite onedl-mmcv mmsegmentation onedl-mmsegmentation "
        "&& pip install mmengine==0.10.7 mmcv-lite==2.1.0 mmsegmentation==1.2.2"
    )
    with pytest.raises(ImportError, match=f"'mmengine', .*'mmcv', .*'mmseg'.*{command}"):
        compat.prepare_mmseg()


@pytest.mark.parametrize(("name", "version"), [("onedl-mmcv", "2.3.6"), ("mmcv-lite", "2.2.0"), ("mmcv", "2.10.0")])
def test_an_mmcv_that_mmsegmentation_refuses_is_named(monkeypatch, name, version):
    """By a bare assertion that says to install the very one that is there."""
    pretend(monkeypatch, {"mmsegmentation": "1.2.2", "mmengine": "0.10.7", name: version})
    words = rf"mmsegmentation 1.2.2 takes an mmcv before 2.2.0, and {name} {version}.*pip uninstall -y {name} &&"
    with pytest.raises(ImportError, match=words):
        compat.prepare_mmseg()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (UPSTREAM, ""),
        (FORKS, ""),
        (MIXED, "mixed: onedl-mmengine 0.10.12 with mmcv-lite 2.1.0, mmsegmentation 1.2.2, not tested together"),
    ],
)
def test_a_mixture_is_told(monkeypatch, found, words):
    pretend(monkeypatch, found)
    assert compat.mixture() == words
    compat.prepare_mmseg()
