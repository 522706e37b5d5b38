"""Runs the tests that need a GPU, and what fails once more by itself."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from records import ROOT

from bench.gpu.journal import Journal, read
from bench.gpu.outcomes import VARIABLE

MARK = re.compile(r"^(@|pytestmark = .*)pytest\.mark\.gpu\b", re.MULTILINE)
# The newest listed first wins: what warns on this torch is no failure of what is tested here.
WORDS = ("-m", "gpu", "-v", "-W", "default", "--tb=short", "-p", "no:cacheprovider")
PLUGINS = ("-p", "pytest_timeout", "-p", "bench.gpu.outcomes")  # and none of those that a machine happens to have
LEAST = 10  # seconds that a test may take, at the least
AGAIN = 6  # tests that failed and are run by themselves, at most


def marked_files(folder: Path) -> list[Path]:
    """The files that mark tests so; collecting the others would take longer than the tests."""
    return sorted(path for path in folder.rglob("test_*.py") if MARK.search(path.read_text(encoding="utf-8")))


def run_tests(journal: Journal, seconds: float, folder: Path = ROOT / "tests") -> None:
    """Runs the tests and keeps the record up to date.

    Where the process dies within a test, another runs those that are left.
    """
    end = time.monotonic() + seconds
    journal.record["tests"] = {}
    files = [str(file) for file in marked_files(folder)]
    while _pytest(journal, files, sorted(journal.record["tests"]), end) and time.monotonic() < end:
        pass
    failed = [test for test, seen in journal.record["tests"].items() if seen["outcome"] == "failed"]
    for test in failed[:AGAIN]:
        if time.monotonic() < end and journal.record["tests"][test].get("died") is None:
            _alone(journal, test, end)
    journal.write()


def _pytest(journal: Journal, chosen: list[str], left_out: list[str], end: float) -> bool:
    """Runs pytest; returns whether it ended within a test, which has failed then."""
    outcomes = journal.path.with_suffix(".tests")
    outcomes.unlink(missing_ok=True)
    limit = max(1.0, end - time.monotonic())
    words = [sys.executable, "-m", "pytest", *WORDS, *PLUGINS, f"--timeout={max(LEAST, int(limit / 3))}", *chosen]
    words += [f"--deselect={test}" for test in left_out]
    process = subprocess.Popen(
        words, cwd=ROOT, env={**os.environ, VARIABLE: str(outcomes), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    )
    seen = 0
    while process.poll() is None and time.monotonic() < end:
        found = read(outcomes)
        if len(found.get("tests", ())) != seen:
            seen = len(found["tests"])
            _take(journal, found)
        time.sleep(0.1)
    timed_out = process.poll() is None
    if timed_out:
        process.kill()
        process.wait()
    found = read(outcomes)
    _take(journal, found)
    at = found.get("at", "")
    if at and at not in found["tests"]:
        why = "the time was up" if timed_out else f"the process ended there, exit code {process.returncode}"
        journal.record["tests"][at] = {"outcome": "failed", "seconds": None, "why": why, "died": True}
        journal.write()
    elif not timed_out and process.returncode not in (0, 1, 5) and not found.get("tests"):
        raise RuntimeError(f"pytest ran no test of {', '.join(chosen)}: exit code {process.returncode}, see the log")
    return bool(at)


def _take(journal: Journal, found: dict[str, Any]) -> None:
    journal.record["tests"].update(found.get("tests", {}))
    journal.write()


def _alone(journal: Journal, test: str, end: float) -> None:
    """Runs a test that failed once more: it may have failed for what another did to the process."""
    before = dict(journal.record["tests"][test])
    _pytest(journal, [test], [], end)
    after = journal.record["tests"][test]
    journal.record["tests"][test] = {**before, "alone": after["outcome"]}
