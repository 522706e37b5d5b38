"""What a benchmark leaves: a JSON file and a figure a suite, and the tables of docs/performance.md made from them."""

import json
import os
import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from records import ROOT, provenance, table

from bench.case import Settings, Suite
from ndpp_dense.atomic_file import replacing

PAGE = ROOT / "docs" / "performance.md"
RECORDS = ROOT / "docs" / "results" / "bench"
BLOCK = r"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)"
NOT_MEASURED = "not measured\n"
Record = dict[str, Any]


def stem(suite: str, settings: Settings) -> str:
    """Name of the files of a suite: what was measured where."""
    where = "cuda" if settings.device == "cuda" else f"cpu_{settings.threads}t"
    chosen = [name for name in ("amp", "channels_last", "graph", "quick") if getattr(settings, name)]
    return "_".join([suite, where, *chosen])


def machine(settings: Settings) -> dict[str, Any]:
    """Hardware, software and load at this moment."""
    import torch

    found: dict[str, Any] = {**provenance(settings.threads), "torch": torch.__version__, "load": list(os.getloadavg())}
    if settings.device == "cuda":
        found["hardware"] = f"{torch.cuda.get_device_name()} ({found['hardware']})"
    return found


def write_json(record: Record, path: Path) -> None:
    """Writes a record, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def draw(record: Record, path: Path) -> None:
    """Draws the ratios to the baseline as bars, with their quartiles, one panel a case."""
    cases = record["cases"]
    columns = min(3, len(cases))
    rows = -(-len(cases) // columns)
    height = 0.8 + 0.3 * max(len(case["peers"]) for case in cases)
    figure = Figure(figsize=(4.2 * columns, 0.5 + height * rows), dpi=120, layout="constrained")
    figure.suptitle(f"{record['says']}\n{record['machine']['hardware']}", fontsize=10)
    for axes, case in zip(figure.subplots(rows, columns, squeeze=False).flat, cases, strict=False):
        labels = list(case["peers"])
        ratios = [peer["ratio"] for peer in case["peers"].values()]
        spread = [
            [abs(peer["ratio"] - peer["ratio_quartiles"][end]) for peer in case["peers"].values()] for end in (0, 1)
        ]
        axes.barh(labels, ratios, xerr=spread, color=[f"C{index}" for index in range(len(labels))], capsize=3)
        axes.invert_yaxis()
        axes.axvline(1, color="grey", linewidth=0.8)
        axes.set_title(case["name"], fontsize=9)
        axes.set_xlabel(f"{case['unit']}, ratio to {labels[0]}", fontsize=8)
        axes.tick_params(labelsize=8)
    for axes in figure.axes[len(cases) :]:
        axes.set_axis_off()
    with replacing(path) as part:
        FigureCanvasAgg(figure).print_png(str(part))


def update_page(suites: Mapping[str, Suite], page: Path = PAGE, records: Path = RECORDS) -> list[str]:
    """Writes the tables between the page's markers.

    Args:
        suites: By name; each has its markers ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->`` in the page.
        page: To change.
        records: Folder of the JSON files.

    Returns:
        The suites without a record.

    Raises:
        ValueError: The page has no markers for a suite.
    """
    text, missing = page.read_text(encoding="utf-8"), []
    for name in suites:
        files = sorted(records.glob(f"{name}_*.json"))
        body = "\n".join(_section(file, page.parent) for file in files) or NOT_MEASURED
        text, found = re.subn(BLOCK.format(name=name), lambda m, body=body: m[1] + body + m[2], text, flags=re.DOTALL)
        if not found:
            raise ValueError(f"{page} has no place for {name!r}: add <!-- bench:{name} --> and <!-- /bench:{name} -->")
        if not files:
            missing.append(name)
    with replacing(page) as part:
        part.write_text(text, encoding="utf-8")
    return missing


def _section(file: Path, folder: Path) -> str:
    record = json.loads(file.read_text(encoding="utf-8"))
    made = record["machine"]
    said = (
        f"`{record['command']}`\n\n{made['hardware']}, torch {made['torch']}, commit {made['commit']}; load average "
        f"{made['load'][0]:.1f} before, {record['load_after'][0]:.1f} after; rounds: "
        f"{', '.join(str(case['rounds']) for case in record['cases'])}."
    )
    parts = [
        said,
        *result_tables(record),
        *_skipped(record),
        *(_profile_table(record) if record.get("profile") else []),
    ]
    figure = file.with_suffix(".png")
    if figure.exists():
        parts.append(f"![{record['says']}]({os.path.relpath(figure, folder)})")
    return "\n\n".join(parts) + "\n"


def result_tables(record: Record) -> list[str]:
    """A table for each quantity and set of peers: the median ratio to the baseline with its quartiles, a column a case.

    Of the baseline, the median itself. What is not a time is exact: there the value stands, with its ratio in brackets.
    """
    alike = groupby(record["cases"], key=lambda case: (case["unit"], tuple(case["peers"])))
    return [_result_table(record["says"], list(cases)) for _, cases in alike]


def _result_table(says: str, cases: list[Record]) -> str:
    rows = [[label, *(_cell(case, label) for case in cases)] for label in cases[0]["peers"]]
    shown = "ratio (quartiles)" if cases[0]["unit"] == "s" else "value (ratio)"
    return table([f"{says}: {shown}", *(case["name"] for case in cases)], rows)


def _cell(case: Record, label: str) -> str:
    peer = case["peers"][label]
    if label == next(iter(case["peers"])):
        return f"{peer['median']:.4g} {case['unit']}"
    if case["unit"] != "s":
        return f"{peer['median']:.4g} ({peer['ratio']:.3f})"
    return "{:.3f} ({:.3f}-{:.3f})".format(peer["ratio"], *peer["ratio_quartiles"])


def _skipped(record: Record) -> list[str]:
    lines = {f"- {label}: {why}" for case in record["cases"] for label, why in case["skipped"].items()}
    return ["Not measured:\n\n" + "\n".join(sorted(lines))] if lines else []


def _profile_table(record: Record) -> list[str]:
    rows = []
    for label, parts in record["profile"].items():
        total = sum(filter(None, parts.values()))
        cells = ["not measured" if value is None else f"{value / total:.0%}" for value in parts.values()]
        rows.append([label, f"{total:.4g}", *cells])
    first = next(iter(record["profile"].values()))
    return [table([f"parts of a step ({record['profile_case']})", "s", *first], rows)]
