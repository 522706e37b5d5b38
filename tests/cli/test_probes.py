"""Checks run in processes that share one import of torch, and survive what they run."""

import subprocess
import sys

import pytest

from ndpp_dense.cli import probes
from ndpp_dense.cli.probes import in_a_process


def test_torch_is_there_already():
    done = in_a_process("import sys; print('torch' in sys.modules, 'ndpp_dense.layers' in sys.modules)")
    assert (done.returncode, done.stdout) == (0, "True True\n")


def test_what_it_says_and_how_it_ends_come_back():
    done = in_a_process("import os, sys; os.write(2, b'from C\\n'); print('out'); sys.exit(3)")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "from C\n")
    assert in_a_process("import os; os.abort()").returncode == -6
    done = in_a_process("import no_such_module")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'no_such_module'"


def test_one_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(probes, "_TIMEOUT", 1.0)
    with pytest.raises(subprocess.TimeoutExpired):
        in_a_process("import time; time.sleep(60)")


def test_a_torch_that_cannot_be_imported_is_named(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so: cannot open shared object file')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom ndpp_dense.cli.checks import all_findings\n"
        "print(*[f.state for f in all_findings() if f.what == 'torch' and f.fine is False])"
    )
    words = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": f"{tmp_path}:{probes.__file__.rsplit('/ndpp_dense/', 1)[0]}", "PATH": ""}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert "libcudart.so: cannot open shared object file" in done.stdout
