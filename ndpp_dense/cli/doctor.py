"""``ndpp doctor``: what is installed, what is wrong with it, and what to type to mend it."""

from __future__ import annotations

import argparse

from ndpp_dense.cli.checks import all_findings
from ndpp_dense.cli.output import say, table

__all__ = ["add_arguments", "run"]

_MARKS = {True: "ok", False: "!!", None: "--"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares that it takes nothing."""


def run(args: argparse.Namespace) -> int:
    """Looks at everything, and fails if something that is there does not work."""
    findings = all_findings()
    say(table([(_MARKS[finding.fine], finding.what, finding.state) for finding in findings]))
    todo = [finding for finding in findings if finding.remedy]
    if todo:
        say("", "To mend or add:", *(f"  {finding.what}: {finding.remedy}" for finding in todo))
    broken = [finding.what for finding in findings if finding.fine is False]
    say(
        "", f"{len(broken)} broken: {', '.join(broken)}" if broken else "Nothing is broken (-- is optional, not there)."
    )
    return 1 if broken else 0
