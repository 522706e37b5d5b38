"""What a benchmark leaves: a JSON file and a figure a suite, and the tables of docs/performance.md made from them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from records import ROOT

from bench.case import Suite
from bench.gpu.page import GPU, REHEARSED, gpu_section, suite_section
from bench.tables import Record
from ndpp_dense.atomic_file import replacing

PAGE = ROOT / "docs" / "performance.md"
RECORDS = ROOT / "docs" / "results" / "bench"
BLOCK = r"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)"
NOT_MEASURED = "not measured\n"


def write_json(record: Record, path: Path) -> None:
    """Writes a record, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def update_page(suites: Mapping[str, Suite], page: Path = PAGE, records: Path = RECORDS) -> list[str]:
    """Writes the tables between the page's markers: of CPUs a section a suite, of GPUs one section.

    Args:
        suites: By name; each has its markers ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->`` in the page.
        page: To change.
        records: Folder of the JSON files.

    Returns:
        The sections without a record.

    Raises:
        ValueError: The page has no markers for a suite.
    """
    bodies = {name: _cpu_section(name, page.parent, records) for name in suites}
    bodies[GPU] = gpu_section(suites, page.parent, records)
    text = page.read_text(encoding="utf-8")
    for name, body in bodies.items():
        shown = body or NOT_MEASURED
        text, found = re.subn(
            BLOCK.format(name=name), lambda m, shown=shown: m[1] + shown + m[2], text, flags=re.DOTALL
        )
        if not found:
            raise ValueError(f"{page} has no place for {name!r}: add <!-- bench:{name} --> and <!-- /bench:{name} -->")
    with replacing(page) as part:
        part.write_text(text, encoding="utf-8")
    return [name for name, body in bodies.items() if not body]


def _cpu_section(name: str, folder: Path, records: Path) -> str:
    files = [file for file in sorted(records.glob(f"{name}_cpu_*.json")) if not file.stem.endswith(REHEARSED)]
    return "\n".join(suite_section(file, folder) for file in files)
