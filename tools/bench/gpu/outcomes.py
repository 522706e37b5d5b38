"""A plugin of pytest: writes what has become of each test, as soon as it is known, to the file that OUTCOMES names."""

import os
from pathlib import Path
from typing import Any

from bench.gpu.journal import Record, read, write_whole

VARIABLE = "OUTCOMES"


def pytest_runtest_logstart(nodeid: str) -> None:
    """Notes which test is under way: it is the one to blame if the process dies."""
    found = _read()
    found["at"] = nodeid
    write_whole(_path(), found)


def pytest_runtest_logreport(report: Any) -> None:
    """Notes the outcome of a test; setting it up counts where it failed or was skipped."""
    if report.when != "call" and report.outcome == "passed":
        return
    found = _read()
    seen = found["tests"].get(report.nodeid)
    if seen is None or seen["outcome"] == "passed":  # what fails after a test that passed is the test's failure too
        outcome = {"outcome": report.outcome, "seconds": report.duration, "why": why(report)}
        found["tests"][report.nodeid] = outcome
    write_whole(_path(), found)


def pytest_collectreport(report: Any) -> None:
    """Counts a file that cannot be read as a test that failed."""
    if report.failed:
        found = _read()
        found["tests"][report.nodeid] = {"outcome": "failed", "seconds": None, "why": why(report)}
        write_whole(_path(), found)


def pytest_sessionfinish() -> None:
    """Notes that no test is under way."""
    found = _read()
    found["at"] = ""
    write_whole(_path(), found)


def why(report: Any) -> str:
    """The line that says why a test failed or was skipped."""
    if report.outcome == "passed":
        return ""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash is not None else str(report.longrepr)).strip().splitlines()[0]


def _path() -> Path:
    return Path(os.environ[VARIABLE])


def _read() -> Record:
    return {"tests": {}, "at": "", **read(_path())}
