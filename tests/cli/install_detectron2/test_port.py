import subprocess
import sys
import types

import pytest
import torch

from ndpp_dense.cli.install_detectron2 import port

SOURCE = """\
import random
import numpy as np
import pkg_resources
import torch
from PIL import Image

mask = np.zeros((2, 2), dtype=np.bool)
kept = np.bool_(True), np.int32(3), np.float64(1), np.integer, np.object_
total = np.float(1.5) + np.int(2)
mode = Image.LINEAR, Image.BILINEAR
path = pkg_resources.resource_filename("email", "__init__.py")
same = np.array(mask, copy=False)


class Dataset:
    def __init__(self):
        self._rng, self._fallback_candidates = random.Random(0), {1, 2}

    def another(self):
        return self._rng.sample(self._fallback_candidates, k=1)[0]


class LRScheduler:
    def state_dict(self):
        if isinstance(self.scheduler, torch.optim.lr_scheduler._LRScheduler):
            return self.scheduler.state_dict()
        return {}


class LazyConfig:
    def to_py(py_str):
        import black

        try:
            return black.format_str(py_str, mode=black.Mode())
        except black.InvalidInput:
            return py_str
"""


def test_every_kind_of_edit_is_applied_and_counted(monkeypatch):
    text, counts = port.edit_source(SOURCE)
    assert dict(counts) == {
        "np alias -> builtin": 3,
        "Image.LINEAR -> Image.BILINEAR": 1,
        "import pkg_resources -> importlib.resources": 1,
        "pkg_resources.resource_filename -> importlib.resources": 1,
        "isinstance(..., _LRScheduler) -> LRScheduler": 1,
        "sample from a set -> list": 1,
        "np.array(copy=False) -> np.asarray": 1,
        "import black -> optional": 1,
        "black.format_str -> where black is": 1,
    }
    assert "np.bool_(True), np.int32(3), np.float64(1), np.integer, np.object_" in text
    names: dict = {}
    exec(text, names)
    assert names["mask"].dtype == bool
    assert names["total"] == 3.5
    assert names["mode"][0] == names["mode"][1]
    assert names["path"].endswith("__init__.py")
    assert names["same"] is names["mask"]
    assert names["Dataset"]().another() in (1, 2)
    hook = names["LRScheduler"]()
    hook.scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)]), 3)
    assert hook.state_dict()["step_size"] == 3
    monkeypatch.setitem(sys.modules, "black", None)
    assert names["LazyConfig"].to_py("cfg.a=1") == "cfg.a=1"
    tidy = types.SimpleNamespace(format_str=lambda text, mode: text.replace("=", " = "), Mode=int, InvalidInput=OSError)
    monkeypatch.setitem(sys.modules, "black", tidy)
    assert names["LazyConfig"].to_py("cfg.a=1") == "cfg.a = 1"


def test_export_imports_without_caffe2(monkeypatch):
    text, counts = port.edit_source("from .api import *\nfrom .flatten import TracingAdapter\n")
    assert dict(counts) == {"caffe2 -> optional": 1}
    monkeypatch.setitem(sys.modules, "caffe2", None)
    exec(text.replace("from .flatten import TracingAdapter", "reached = True"), names := {"__name__": "export"})
    assert names["reached"]
    assert port.edit_source(text)[1] == {}  # upstream's own, later, is of this form


def test_a_second_round_changes_nothing():
    text, _ = port.edit_source(SOURCE)
    assert port.edit_source(text) == (text, {})


def test_a_tree_reports_the_changed_files_only(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old.py").write_text("import numpy as np\nkind = np.object\n")
    (tmp_path / "new.py").write_text("kind = object\n")
    changed = list(port.edit_tree(tmp_path))
    assert [(path.as_posix(), dict(counts)) for path, counts in changed] == [
        ("data/old.py", {"np alias -> builtin": 1})
    ]
    assert (tmp_path / "_C.py").read_text() == port.PLACEHOLDER


@pytest.fixture(scope="module")
def placeholder(tmp_path_factory):
    path = tmp_path_factory.mktemp("port") / "placeholder.py"
    path.write_text(port.PLACEHOLDER)
    return path


def test_the_placeholder_raises_by_name(placeholder):
    # The operator library can be defined once a process and may be there already: look in a process of its own.
    code = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("placeholder", {str(placeholder)!r})
_C = importlib.util.module_from_spec(spec); spec.loader.exec_module(_C)
boxes = torch.zeros(1, 5)
calls = {{
    "deform_conv_forward": lambda: _C.deform_conv_forward(1, two=2),
    "COCOevalEvaluateImages": lambda: _C.COCOevalEvaluateImages(),
    "nms_rotated": lambda: torch.ops.detectron2.nms_rotated(boxes, boxes[:, 0], 0.5),
    "box_iou_rotated": lambda: torch.ops.detectron2.box_iou_rotated(boxes, boxes),
}}
for name, call in calls.items():
    try:
        call()
    except NotImplementedError as error:
        assert "_C." + name in str(error) and "from source" in str(error), error
    else:
        raise SystemExit(name + " did not raise")
assert not hasattr(_C, "__path__") and not _C.has_cuda()
assert "without compiled ops" in _C.get_compiler_version() and "without" in _C.get_cuda_version()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
