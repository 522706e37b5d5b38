"""An environment with one framework: what make installs in it, and that tests of others skip by name."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def make(*words):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return subprocess.run(["make", *words], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize(
    ("only", "extras", "installs"), [("mmseg", "mmseg,dev", False), ("detectron2", "detectron2,dev", True)]
)
def test_one_framework_is_installed_alone(only, extras, installs, tmp_path):
    plan = make("--dry-run", "env", f"ONLY={only}", f"VENV={tmp_path / 'venv'}").stdout
    assert f"'.[{extras}]'" in plan
    assert ("install-detectron2" in plan) == installs


def test_later_targets_keep_to_it_and_make_env_makes_it_whole(tmp_path):
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / ".only").write_text("mmseg\n")
    assert "'.[mmseg,dev]'" in make("--dry-run", "test", f"VENV={venv}").stdout
    assert "'.[detectron2,mmseg,pretrain,dev]'" in make("--dry-run", "env", f"VENV={venv}").stdout


def test_a_whole_environment_is_left_as_it_is(tmp_path):
    (tmp_path / ".packages").touch()
    done = make("env-mmseg", f"VENV={tmp_path}")
    assert done.returncode != 0
    assert "has all frameworks: make env-mmseg VENV=.venv-mmseg" in done.stderr
    assert not (tmp_path / ".only").exists()


def test_what_is_not_installed_is_skipped_by_name(tmp_path):
    text = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8").replace('"timm"', '"a_missing_framework"')
    (tmp_path / "conftest.py").write_text(text)
    (tmp_path / "test_top.py").write_text("import a_missing_framework\n\ndef test_a(): pass\n")
    (tmp_path / "test_inside.py").write_text("def test_a():\n    import a_missing_framework.part\n")
    (tmp_path / "test_fault.py").write_text("def test_a():\n    import another_module\n")
    words = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "1 failed, 2 skipped" in done.stdout
    assert done.stdout.count("a_missing_framework is not installed: pip install -e '.[pretrain]'") == 2
