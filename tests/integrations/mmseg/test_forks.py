"""The maintained forks of OpenMMLab pass the tests of these two rooms, in an environment of their own."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="mmengine is not installed")

from ndpp_dense.integrations.mmseg.compat import FORK

ROOT = Path(__file__).resolve().parents[3]
FORKS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith(FORK)]
REPLACED = re.compile(r"mmcv|mmengine|mmseg|pip\b|onedl|.*\.pth$|_*(editable|ndpp)")
pytestmark = [pytest.mark.slow, pytest.mark.mmseg]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment with everything that is installed here, but the forks in the place of OpenMMLab's own."""
    folder = tmp_path_factory.mktemp("forks")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    (folder / "links").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not REPLACED.match(path.name):
            (folder / "links" / path.name).symlink_to(path)
    site = next((folder / "env" / "lib").glob("python*/site-packages"))
    (site / "links.pth").write_text(f"{folder / 'links'}\n")
    made = folder / "env" / "bin" / "python"
    install = [str(made), "-m", "pip", "install", "--quiet", "--no-deps", *FORKS]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip gives no {', '.join(FORKS)}: {done.stderr.strip().splitlines()[-1]}")
    return made


@pytest.mark.timeout(1800)
def test_the_tests_pass_with_them(python):
    rooms = ["tests/integrations/mmengine", "tests/integrations/mmseg"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *rooms]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    code = "from ndpp_dense.integrations.mmseg.health import describe; print(describe())"
    words = subprocess.run(
        [str(python), "-W", "ignore", "-c", code], capture_output=True, text=True, env=env, check=True
    )
    assert "mixed" not in words.stdout
