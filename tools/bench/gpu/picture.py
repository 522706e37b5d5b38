"""The picture of a report: a panel for every case that compares something.

python -m bench.gpu.picture FOLDER NAME
"""

import os
import sys
from pathlib import Path

from bench.figure import draw
from bench.gpu.journal import read
from bench.gpu.plan import PLAN

PANELS = 18  # at most


def main(folder: Path, name: str) -> None:
    """Reads the records of a folder and draws them."""
    records = [read(path) for path in folder.glob("*.json")]
    found = {record["suite"]: record for record in records if record.get("suite") in PLAN}
    cases = [
        {**case, "name": f"{suite}: {case['name']}"}
        for suite in PLAN
        for case in found.get(suite, {"cases": []})["cases"]
        if len(case["peers"]) > 1
    ]
    hardware = next((record["machine"]["hardware"] for record in found.values()), "nothing measured")
    rehearsal = any(record.get("rehearsal") for record in found.values())
    title = f"{'A rehearsal in tiny, which says nothing about GPUs' if rehearsal else 'Ratios'}\n{hardware}"
    part = folder / f".{name}"
    draw(cases[:PANELS], title, part)
    os.replace(part, folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
