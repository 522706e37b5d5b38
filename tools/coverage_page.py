"""Write the table of docs/project/coverage.md from what `make coverage` measured."""

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

from records import ROOT, table

PAGE = ROOT / "docs" / "project" / "coverage.md"
BLOCK = r"(<!-- coverage -->\n).*?(<!-- /coverage -->)"


def main() -> None:
    """Write the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), measured(), date.today().isoformat()), encoding="utf-8")


def measured() -> dict[str, Any]:
    """Return coverage's JSON report of the last measurement."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        words = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(report)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"nothing was measured: run `make coverage`. ({(done.stdout + done.stderr).strip()})")
        return json.loads(report.read_text(encoding="utf-8"))


def filled(text: str, report: dict[str, Any], day: str) -> str:
    """Return the page with the table of a report in its marked part."""
    return re.sub(BLOCK, lambda mark: f"{mark[1]}{coverage_table(report, day)}\n{mark[2]}", text, flags=re.DOTALL)


def coverage_table(report: dict[str, Any], day: str) -> str:
    """Return the share of lines that ran, in all and by room of the package."""
    rooms: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, file in report["files"].items():
        parts = Path(name).parts
        room = parts[1] if len(parts) > 2 else "(top)"
        rooms[room][0] += file["summary"]["covered_lines"]
        rooms[room][1] += file["summary"]["num_statements"]
    rows = [(f"`{room}`", f"{count:,}", share(ran, count)) for room, (ran, count) in sorted(rooms.items())]
    totals = report["totals"]
    total = ("all", f"{totals['num_statements']:,}", share(totals["covered_lines"], totals["num_statements"]))
    return f"Measured on {day}.\n\n{table(('room', 'statements', 'reached by the default tests'), [*rows, total])}"


def share(ran: int, count: int) -> str:
    """Return a share in percent, rounded down: only all is 100 %."""
    return f"{100 * ran // count if count else 100} %"


if __name__ == "__main__":
    main()
