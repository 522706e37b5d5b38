"""The table on the front pages: four methods on real images, with the spread over seeds and the cost of a step."""

import argparse
import json
import re
import statistics
from pathlib import Path

from records import ROOT, table

from studies import camvid, nuclei
from studies.engine import Study
from studies.page import best_groups, grouped, step_medians, value

PAGES = (ROOT / "README.md", ROOT / "docs" / "index.md")
BLOCK = r"(<!-- study:front -->\n).*?(<!-- /study:front -->)"
# The same method has other names in the two studies: one process, so SyncBN is batch norm.
ROWS = {
    "batch norm": ("bn", "syncbn"),
    "group norm": ("gn", "gn"),
    "ND++ `paper`": ("paper", "paper"),
    "ND++ `fast`": ("fast", "fast"),
}
HEAD = ("", "mask AP, nuclei", "mIoU, CamVid", "time of a training step")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Declare the command of the front pages."""
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table", help="write the table of README.md and docs/index.md")


def obey(args: argparse.Namespace) -> None:
    """Write the table into the marked part of each front page."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


def filled(text: str) -> str:
    """Return a page with the table of the records in its marked part."""
    done, count = re.subn(BLOCK, lambda found: f"{found[1]}{front_table()}\n{found[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{count} parts of the page are marked study:front: mark one")
    return done


def front_table() -> str:
    """Return the table: each method at its best learning rate, mean and range over the seeds."""
    detector, segmentor = nuclei.STUDY, camvid.STUDY
    columns = [cells(study, [names[at] for names in ROWS.values()]) for at, study in enumerate((detector, segmentor))]
    rows = []
    for label, (first, cost), (second, other_cost) in zip(ROWS, *columns, strict=True):
        rows.append((label, first, second, f"{cost:.2f} and {other_cost:.2f}"))
    return table(HEAD, rows)


def cells(study: Study, methods: list[str]) -> list[tuple[str, float]]:
    """Return of each method the figure in the end, and the time of its step over that of the first."""
    best = best_groups(study, "", grouped(read_records(study)))
    seconds, _ = step_medians(study)
    first = seconds[methods[0]]
    return [(shown([value(run, study.columns[-1]) for run in best[m]]), seconds[m] / first) for m in methods]


def read_records(study: Study) -> list[dict]:
    """Return the records of all runs of a study."""
    return [json.loads(Path(path).read_text()) for path in sorted(study.folder.glob("*_seed*.json"))]


def shown(values: list[float]) -> str:
    """Return mean, range and number of the seeds."""
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f}, {len(values)} seeds)"
