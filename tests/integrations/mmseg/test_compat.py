"""The shims must be needed, work, and do nothing where they are not."""

import importlib.util
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


@pytest.fixture
def without_safe_globals():
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def training_log():
    from mmengine.logging import MessageHub

    hub = MessageHub.get_instance("test_compat")
    hub.update_scalar("train/loss", 1.5)
    hub.update_scalar("train/acc", torch.tensor(2.0))
    file = io.BytesIO()
    torch.save({"message_hub": hub.state_dict()}, file)
    file.seek(0)
    return file


@pytest.mark.usefixtures("without_safe_globals")
def test_checkpoints_of_mmengine_load_safely_only_through_the_shim():
    file = training_log()
    with pytest.raises(pickle.UnpicklingError, match="Unsupported global"):
        torch.load(file)
    compat.allow_checkpoint_classes()
    file.seek(0)
    scalars = torch.load(file)["message_hub"]["log_scalars"]
    assert scalars["train/loss"].current() == 1.5


class Attack:
    def __reduce__(self):
        return getattr, (dict, "update")


@pytest.mark.usefixtures("without_safe_globals")
def test_other_code_in_a_checkpoint_stays_refused():
    compat.allow_checkpoint_classes()
    file = io.BytesIO()
    torch.save(Attack(), file)
    file.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file)


def test_two_owners_of_one_name_are_named_with_the_command(monkeypatch):
    compat.check_distributions()  # as it is here
    installed = {"mmengine": "0.10.7", "mmcv-lite": "2.1.0", "onedl-mmcv": "2.3.2", "mmsegmentation": "1.2.2"}

    def version(name):
        if name not in installed:
            raise compat.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(compat, "version", version)
    command = r"pip uninstall -y mmcv-lite onedl-mmcv && pip install mmcv-lite==2.1.0"
    with pytest.raises(ImportError, match=f"'mmcv'.*{command}"):
        compat.check_distributions()
