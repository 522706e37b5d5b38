"""What ``ndpp doctor`` looks at; each check finds out by importing and calling, not by believing version numbers."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple, dataclass
from importlib.metadata import PackageNotFoundError, version

from ndpp_dense.cli.probes import in_a_process
from ndpp_dense.integrations.registry import FRAMEWORKS, Framework
from ndpp_dense.zoo import Cache, load_index, locate

__all__ = ["Finding", "all_findings", "torch_findings"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: Was looked at.
        fine: True if it works, False if it is there and does not, None if it is optional and not there.
        state: What was found.
        remedy: What to type; empty where nothing is to be done.
    """

    what: str
    fine: bool | None
    state: str
    remedy: str = ""


def all_findings() -> list[Finding]:
    """Runs all checks; one that fails in an unforeseen way is a finding too."""
    checks: list[Callable[[], Finding | list[Finding]]] = [
        _python, _torch, _base, _frameworks, _video, _zoo, _network,
    ]  # fmt: skip
    findings: list[Finding] = []
    for check in checks:
        try:
            found = check()
        except Exception as error:
            found = Finding(check.__name__.strip("_"), False, f"{type(error).__name__}: {error}")
        findings += found if isinstance(found, list) else [found]
    return findings


def _python() -> Finding:
    known = (3, 10) <= sys.version_info[:2] <= (3, 14)
    remedy = "" if known else "make env PYTHON=/path/to/python, of a release from 3.10 to 3.14"
    return Finding("Python", known, f"{platform.python_version()} on {platform.system()} {platform.machine()}", remedy)


def _torch() -> list[Finding]:
    """Three findings from a process of their own: this one needs no torch."""
    done = in_a_process("import json; from ndpp_dense.cli import checks; print(json.dumps(checks.torch_findings()))")
    if done.returncode:
        return [Finding("torch", False, _last_line(done.stderr), "install torch again, see pytorch.org/get-started")]
    return [Finding(*words) for words in json.loads(done.stdout.splitlines()[-1])]


def torch_findings() -> list[tuple[str, bool | None, str, str]]:
    """What is found by calling torch: itself, a GPU, the ways to talk to other processes."""
    found = []
    for name, check in (("torch", _torch_itself), ("GPU", _gpu), ("distributed", _distributed)):
        try:
            found.append(astuple(check()))
        except Exception as error:
            remedy = "install torch again, see pytorch.org/get-started" if check is _torch_itself else ""
            found.append((name, False, f"{type(error).__name__}: {error}", remedy))
    return found


def _torch_itself() -> Finding:
    import torch

    x = torch.ones(8, 8, requires_grad=True)
    (x @ x).sum().backward()
    return Finding("torch", True, f"{torch.__version__}, {torch.get_num_threads()} thread(s)")


def _gpu() -> Finding:
    import torch

    built = torch.version.cuda or torch.version.hip
    if not torch.cuda.is_available():
        why = f"torch is built for CUDA {built}, no usable GPU found" if built else "this torch is built for CPUs"
        driver = (
            subprocess.run(["nvidia-smi"], capture_output=True, check=False).returncode == 0 if _has_smi() else False
        )
        if driver:  # a GPU that the system sees and torch does not
            return Finding("GPU", False, why, "install a torch for your driver's CUDA, see pytorch.org/get-started")
        return Finding("GPU", None, f"{why}: everything runs on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    (torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")).sum().item()
    return Finding("GPU", True, f"{len(names)} x {names[0]}, CUDA {built}")


def _has_smi() -> bool:
    from shutil import which

    return which("nvidia-smi") is not None


def _distributed() -> Finding:
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        return Finding("distributed", None, "torch is built without it: one process only")
    backends = [name for name in ("nccl", "gloo", "mpi") if getattr(dist, f"is_{name}_available")()]
    number = ""
    if torch.cuda.is_available() and "nccl" in backends:
        from torch.cuda import nccl

        number = f", NCCL {'.'.join(map(str, nccl.version()))}"
    chosen = {key: os.environ[key] for key in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME") if key in os.environ}
    return Finding("distributed", True, f"{', '.join(backends)}{number}{f', {chosen}' if chosen else ''}")


def _base() -> list[Finding]:
    return [
        Finding(name, True, _version(name))
        if importlib.util.find_spec(name)
        else Finding(name, False, "missing", f"pip install {name}")
        for name in ("filelock", "safetensors", "tqdm")
    ]


def _frameworks() -> list[Finding]:
    return [_framework(record) for record in FRAMEWORKS.values()]


def _framework(record: Framework) -> Finding:
    if not importlib.util.find_spec(record.packages[0]):
        lacking = f": {record.without}" if record.without else ""
        return Finding(record.title, None, f"not installed{lacking}", record.install)
    module, _, function = record.check.partition(":")
    done = in_a_process(f"from {module} import {function}; print({function}())")
    if done.returncode:
        fault = _last_line(done.stderr)
        # The message of a conflict names the command that ends it.
        state, command, rest = fault.partition("pip uninstall")
        return Finding(record.title, False, state.rstrip(" :")[:300], command + rest or record.repair)
    return Finding(record.title, True, _last_line(done.stdout))


def _video() -> Finding:
    if not importlib.util.find_spec("cv2"):
        return Finding("OpenCV", None, "not installed: no videos", "pip install opencv-python-headless")
    done = in_a_process("import cv2; print(cv2.__version__, len(cv2.videoio_registry.getStreamBackends()))")
    if done.returncode:
        return Finding("OpenCV", False, _last_line(done.stderr), "pip install opencv-python-headless")
    number, backends = done.stdout.split()
    return Finding("OpenCV", True, f"{number}, {backends} way(s) to read videos")


def _zoo() -> list[Finding]:
    index, cache = load_index(), Cache()
    shipped = [m for m in index.models.values() if m.weights and index.shipped(m.weights).is_file()]
    damaged = [model.name for model in shipped if locate(model, index, cache) is None]
    state = f"{len(index.models)} models, {len(shipped)} with weights in the package"
    remedy = "pip install --force-reinstall --no-deps ndpp-dense" if damaged else ""
    findings = [Finding("model zoo", not damaged, state + (f", damaged: {damaged}" if damaged else ""), remedy)]
    try:
        cache.blobs.mkdir(parents=True, exist_ok=True)
        writable = os.access(cache.blobs, os.W_OK)
    except OSError:
        writable = False
    remedy = "" if writable else "export NDPP_HOME=/a/folder/you/can/write/to"
    return [*findings, Finding("cache", writable, f"{cache.home}{'' if writable else ' cannot be written'}", remedy)]


def _network() -> Finding:
    names = ("NDPP_OFFLINE", "NDPP_ZOO_MIRROR", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY")
    # Not their values: an address of a proxy may hold a password.
    return Finding("network", True, f"set: {', '.join(name for name in names if os.environ.get(name)) or 'nothing'}")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:1000] if lines else "it failed without a word"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown version"
