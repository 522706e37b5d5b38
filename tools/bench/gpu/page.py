"""What docs/performance.md says of GPUs: one section, made from the records that a report leaves."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from records import table

from bench.gpu.summary import PICTURE, kernel_line, tests_line, training_line
from bench.tables import Record, profile_table, remarks, result_tables, said

GPU = "gpu"
REHEARSED = "_rehearse"
WARNING = "**A rehearsal on a CPU with tiny sizes: the figures below say nothing about GPUs.**"


def gpu_section(suites: Iterable[str], folder: Path, records: Path) -> str:
    """The section in Markdown; empty where there is no record of a GPU.

    Args:
        suites: Names, in the order that they are shown in.
        folder: Of the page.
        records: Folder of the JSON files.
    """
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in _files(GPU, records)]
    files = [file for name in suites for file in _files(name, records)]
    rehearsed = any(file.stem.endswith(REHEARSED) for file in files)
    parts = [WARNING] if rehearsed else []
    parts += [part for report in reports for part in _report(report)]
    for file in files:
        says = json.loads(file.read_text(encoding="utf-8"))["says"]
        parts.append(f"### {says}\n\n{suite_section(file, folder).rstrip()}")
    if (records / PICTURE).exists():
        parts.append(f"![Everything measured on a GPU]({os.path.relpath(records / PICTURE, folder)})")
    return "\n\n".join(parts) + "\n" if reports or files else ""


def _files(name: str, records: Path) -> list[Path]:
    return sorted({*records.glob(f"{name}_cuda*.json"), *records.glob(f"{name}_cpu_*{REHEARSED}.json")})


def suite_section(file: Path, folder: Path) -> str:
    """Where a suite was measured, its tables, what they lack, and its figure if there is one."""
    record = json.loads(file.read_text(encoding="utf-8"))
    parts = [said(record), *result_tables(record), *remarks(record)]
    parts += [profile_table(record)] if record.get("profile") else []
    figure = file.with_suffix(".png")
    if figure.exists():
        parts.append(f"![{record['says']}]({os.path.relpath(figure, folder)})")
    return "\n\n".join(parts) + "\n"


def _report(report: Record) -> Iterator[str]:
    """What was run, the tests, kernels and training of a report."""
    told = report["told"]
    machine = told.get("machine", {}).get("machine")
    if machine:
        packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items() if number != "missing")
        yield f"`{report['command']}`\n\n{machine['hardware']}, Python {machine['python']}; {packages}."
    states = [
        [name, part["state"], f"{part['seconds']:.0f} of {part['limit']:.0f} s", part["why"] or "–"]
        for name, part in report["parts"].items()
    ]
    yield table(["part", "how it went", "time", "why"], states)
    if "tests" in told:
        yield f"Tests: {tests_line(told['tests']['tests'])}."
        failed = {test: seen["why"] for test, seen in told["tests"]["tests"].items() if seen["outcome"] == "failed"}
        if failed:
            yield "\n".join(f"- `{test}`: {why}" for test, why in failed.items())
    cases = [case for case in told.get("kernels", {}).get("cases", []) if "kernels" in case]
    for case in cases:
        yield from _kernels(case)
    for label, run in told.get("training", {}).get("training", {}).get("runs", {}).items():
        yield f"Two epochs on {told['training']['training']['images']} images, {label}: {training_line(run)}."


def _kernels(case: Record) -> Iterator[str]:
    seen = case["kernels"]
    yield f"{kernel_line(case)}."
    for key, says in (("longest", "the longest"), ("most_frequent", "the most frequent")):
        rows = [[f"`{_cell(name)}`", str(number), f"{seconds:.4g}"] for name, number, seconds in seen[key]]
        yield table([f"{case['name']}: {says} {seen['are']}", "number", "s"], rows)


def _cell(name: Any) -> str:
    return str(name).replace("|", "/").replace("`", "'")
