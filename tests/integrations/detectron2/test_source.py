"""Detectron2 as it is today: a checkout, as `ndpp install-detectron2 --source` installs it and as git leaves it."""

import importlib.machinery
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
pytestmark = pytest.mark.detectron2

from ndpp_dense.integrations.detectron2 import compat, health  # noqa: E402

SOURCE = os.environ.get("DETECTRON2_SOURCE", "")
needs_source = pytest.mark.skipif(not SOURCE, reason="DETECTRON2_SOURCE names no checkout of Detectron2")
ROOT = Path(__file__).resolve().parents[3]


@needs_source
def test_the_checkout_is_what_these_tests_run_on():
    assert "site-packages" not in detectron2.__file__
    top = Path(SOURCE) / "detectron2"
    assert compat.is_later_source() == (top / "tracking").is_dir()
    for name in ("engine/train_loop.py", "modeling/meta_arch/rcnn.py"):
        assert (Path(detectron2.__file__).parent / name).read_text() == (top / name).read_text()


@needs_source
def test_a_run_on_the_checkout_as_it_is_trains_and_resumes(train_net, tmp_path, monkeypatch):
    """Without edits and without `_C`: what `git clone` leaves, on the path."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([SOURCE, str(ROOT)]))
    words = ("MODEL.META_ARCHITECTURE", "NDPPModel", "SOLVER.CHECKPOINT_PERIOD", 2)
    for flags, length in ((), 2), (("--resume",), 4):
        process = train_net(tmp_path / "run", *flags, *words, "SOLVER.MAX_ITER", length)
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0, output
    assert "Resuming from" in output
    code = "from ndpp_dense.integrations.detectron2.health import describe; print(describe())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "later source" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("tracking", "ops", "version", "words"),
    [
        (None, None, "0.6", "0.6 (release), no compiled ops"),
        (None, "_C.py", "0.6", "0.6 (release), no compiled ops"),
        ("tracking", "_C.py", "0.6+g02b5c4e2", "0.6 (later source, g02b5c4e2), no compiled ops"),
        ("tracking", "_C.cpython-311.so", None, "0.6 (later source, not installed but importable), compiled ops"),
    ],
)
def test_doctor_tells_which_it_is(monkeypatch, tracking, ops, version, words):
    origins = {"detectron2.tracking": tracking, "detectron2._C": ops}

    def find_spec(name):
        origin = origins[name]
        return origin and importlib.machinery.ModuleSpec(name, None, origin=origin)

    def find_version(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(compat.importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(health, "find_spec", find_spec)
    monkeypatch.setattr(health, "version", find_version)
    monkeypatch.setattr(detectron2, "__version__", "0.6")
    assert health.describe().startswith(words)


UPSTREAM = """
import pkg_resources
def path(name): return pkg_resources.resource_filename("detectron2.model_zoo", name)
"""


@pytest.mark.skipif(importlib.util.find_spec("pkg_resources") is not None, reason="setuptools has pkg_resources")
def test_the_model_zoo_imports_where_setuptools_has_lost_what_it_asks_for(tmp_path):
    """Upstream's, at any commit, imports `pkg_resources`; the installed one may have been edited."""
    package = tmp_path / "detectron2" / "model_zoo"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text(UPSTREAM)
    # By its file: the integration's front door would import all of Detectron2.
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("compat", {compat.__file__!r})
compat = importlib.util.module_from_spec(spec); spec.loader.exec_module(compat)
compat.import_model_zoo()
from detectron2 import model_zoo
assert model_zoo.path("a.yaml") == {str(package / "a.yaml")!r}, model_zoo.path("a.yaml")
assert "pkg_resources" not in sys.modules
"""
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
