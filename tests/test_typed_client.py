"""The types of the package reach projects that use it: ``py.typed`` is in the wheel, and what is public is typed."""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLIENT = """
from torch import Tensor, nn

from ndpp_dense import ConversionReport, WhiteningConfig, calibrate_ndpp, convert_to_ndpp, fold_ndpp, freeze_stats
from ndpp_dense import nd_layers, update_stats


class Network(nn.Module):
    def depth(self) -> int:
        return 3


def convert(model: Network, batches: list[Tensor]) -> Network:
    config: WhiteningConfig = WhiteningConfig.fast("coco").override({"eps": 0.5}).for_batch(32)
    report: ConversionReport = convert_to_ndpp(model, config, {"conv1": False})
    names: list[str] = [*report.converted, *report.left]
    counted: int = update_stats(model, batches) + freeze_stats(model) + len(names)
    layers: list[str] = [name for name, _ in nd_layers(model)]
    print(counted, layers, calibrate_ndpp(model, batches))
    return fold_ndpp(model)
"""
FAULTY = """
from ndpp_dense import WhiteningConfig, fold_ndpp

eps: str = WhiteningConfig.fast("coco").eps
WhiteningConfig(blocksize=3)
fold_ndpp("no model")
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Returns a function that checks the text of a client with pyright; the package lies where pip puts it."""
    for tool in ("pyright", "hatchling"):
        pytest.importorskip(tool, reason=f"{tool} is not installed: extra 'dev'")
    folder = tmp_path_factory.mktemp("client")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, check=True, capture_output=True, cwd=ROOT)
    (wheel,) = (folder / "dist").iterdir()
    site = folder / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    shutil.unpack_archive(wheel, site, "zip")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    settings = {"venvPath": str(folder), "venv": "venv", "typeCheckingMode": "strict", "include": ["client.py"]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))

    def check(text):
        (folder / "client.py").write_text(text)
        words = [sys.executable, "-m", "pyright", "--outputjson", "--project", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
        return [found["message"] for found in json.loads(done.stdout)["generalDiagnostics"]]

    return check


@pytest.mark.slow
def test_a_client_is_understood(checked):
    assert checked(CLIENT) == []


@pytest.mark.slow
def test_a_faulty_client_is_told(checked):
    said = "\n".join(checked(FAULTY))
    assert '"float" is not assignable to "str"' in said
    assert 'No parameter named "blocksize"' in said
    assert "fold_ndpp" in said
