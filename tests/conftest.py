"""Shared by all tests: what one leaves behind is taken away, worker scripts, and which Detectron2 is tested."""

import atexit
import importlib.util
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch


def _use_checkout(checkout: Path) -> None:
    """Puts a checkout of Detectron2, edited as ``ndpp install-detectron2 --source`` does, before an installed one."""
    from ndpp_dense.cli.install_detectron2.port import edit_tree
    from ndpp_dense.cli.install_detectron2.sources import copy_checkout

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    top = copy_checkout(checkout, Path(folder.name))
    list(edit_tree(top / "detectron2"))
    sys.path.insert(0, str(top))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(top), os.environ.get("PYTHONPATH")]))  # of commands


if os.environ.get("DETECTRON2_SOURCE"):
    _use_checkout(Path(os.environ["DETECTRON2_SOURCE"]))


# What an environment with one framework lacks, and what installs it.
OPTIONAL = {
    **dict.fromkeys(("detectron2", "fvcore", "iopath"), "ndpp install-detectron2"),
    **dict.fromkeys(("pycocotools", "sklearn", "tabulate"), "pip install -e '.[detectron2]'"),
    **dict.fromkeys(("mmcv", "mmengine", "mmseg"), "pip install -e '.[mmseg]'"),
    **dict.fromkeys(("scipy", "timm", "torchvision"), "pip install -e '.[pretrain]'"),
}


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Skips, by name, files and folders of tests that import what is not installed."""
    report = yield
    found = re.search(r"ModuleNotFoundError: No module named '(\w+)", str(report.longrepr)) if report.failed else None
    if found and _is_lacking(found[1]):
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, _lacking(found[1]))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Likewise tests that import it when they run."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    name = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if report.failed and _is_lacking(name):
        report.outcome, report.longrepr = "skipped", (str(item.path), item.location[1] or 0, _lacking(name))
    return report


def _is_lacking(name):
    return name in OPTIONAL and importlib.util.find_spec(name) is None


def _lacking(name):
    return f"Skipped: {name} is not installed: {OPTIONAL[name]}"


@pytest.fixture(autouse=True)
def restore_loggers():
    """Undoes what a command did to the loggers: its handlers write to a stream that is closed when the test ends."""
    before = {logger: (logger.handlers[:], logger.propagate, logger.level) for logger in _loggers()}
    yield
    for logger in _loggers():
        logger.handlers[:], logger.propagate, level = before.get(logger, ([], True, logging.NOTSET))
        logger.setLevel(level)


def _loggers():
    named = logging.Logger.manager.loggerDict.values()
    return [logging.getLogger(), *(logger for logger in named if isinstance(logger, logging.Logger))]


@pytest.fixture(autouse=True)
def restore_catalog():
    """Takes away the data sets that a test registered with Detectron2, which the next one would find."""
    before = _registered()
    yield
    for name in _registered() - before:
        if not name.startswith(DETECTRON2_SETS):  # they come with the first import
            data = sys.modules["detectron2.data"]
            data.DatasetCatalog.remove(name)
            data.MetadataCatalog.pop(name, None)


DETECTRON2_SETS = ("ade20k_", "cityscapes_", "coco_", "keypoints_coco_", "lvis_", "voc_")


def _registered():
    data = sys.modules.get("detectron2.data")
    return set(data.DatasetCatalog.list()) if data else set()


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory):
    """Runs ``worker.py RANK WORLD INIT_FILE OUT_FILE`` once per rank; returns what the ranks saved, in order."""

    def run(worker: Path, world: int = 2, timeout: float = 400.0):
        folder = tmp_path_factory.mktemp("ranks")
        outs = [folder / f"rank{rank}.pt" for rank in range(world)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", str(worker), str(rank), str(world), str(folder / "init"), str(out)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, out in enumerate(outs)
        ]
        try:
            logs = [process.communicate(timeout=timeout)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for rank, (process, log) in enumerate(zip(processes, logs, strict=True)):
            assert process.returncode == 0, f"rank {rank}:\n{log}"
        return [torch.load(out) for out in outs]

    return run
