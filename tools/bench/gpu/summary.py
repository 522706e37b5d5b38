"""What the report leaves: the records of its parts, free of places on the machine, and the tables at its end."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from records import table

from bench.gpu.journal import Record, write_whole
from bench.gpu.runner import Part, State
from bench.tables import ratios

PICTURE, LOG = "gpu_report.png", "gpu_report.log"
# A path that has at least two folders, and whatever is quoted; what is kept is the name at its end.
_PATH = re.compile(r"(?<![\w.:/])/(?:[\w.+@~-]+/)+([\w.+@~-]*)")


def plain(value: Any) -> Any:
    """The same without folders of this machine: records are published."""
    if isinstance(value, str):
        return _PATH.sub(lambda found: found[1] or "folder", value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


class Report:
    """The files of a report.

    Args:
        output: Folder that takes them.
        device: ``cuda`` or, in a rehearsal, ``cpu``.
        command: That the report was made with.
        states: How the parts go; read whenever something is written.
        suites: Parts whose records are suites'; each has a file, the others are told in the report's own.

    Attributes:
        record: Of the report itself.
    """

    def __init__(
        self, output: Path, device: str, command: str, states: Mapping[str, State], suites: Mapping[str, str]
    ) -> None:
        self._output, self._states, self._suites = output, states, suites
        self._stem = "cuda_amp_channels_last" if device == "cuda" else "cpu_1t_channels_last_rehearse"
        self._shown: dict[str, int] = {}
        rehearsal = device != "cuda"
        self.record: Record = {"suite": "gpu", "command": command, "rehearsal": rehearsal, "notes": [], "told": {}}
        self.suites: dict[str, Record] = {}

    def take(self, part: Part, journal: Record) -> list[str]:
        """Writes what a part has measured so far; returns a line for every case that is new."""
        record = plain(journal.get("record", {}))
        if part.name in self._suites:
            if record.get("cases"):
                self.suites[part.name] = record
                write_whole(self._output / f"{part.name}_{self._stem}.json", record)
        elif record:
            self.record["told"][part.name] = record
        self.write()
        known = self._shown.get(part.name, 0)
        new = record.get("cases", [])[known:]
        self._shown[part.name] = known + len(new)
        return [f"    {line}" for case in new for line in case_lines(case)]

    def write(self) -> None:
        """Writes the report's own record."""
        parts = {name: vars(state) for name, state in self._states.items()}
        stem = "gpu_cuda" if self._stem.startswith("cuda") else "gpu_cpu_1t_rehearse"
        write_whole(self._output / f"{stem}.json", plain({**self.record, "parts": parts}))

    def tables(self) -> str:
        """How the parts went and what was measured, as Markdown."""
        rows = [
            [name, state.state, f"{state.seconds:.0f} of {state.limit:.0f} s", plain(state.why) or "–"]
            for name, state in self._states.items()
        ]
        parts = [table(["part", "how it went", "time", "why"], rows)]
        told = [line for name, record in self.record["told"].items() for line in told_lines(name, record)]
        parts += ["\n".join(told)] if told else []
        rows = [
            [name, case["name"], *case_cells(case)] for name, suite in self.suites.items() for case in suite["cases"]
        ]
        parts += [table(["suite", "case", "baseline", "ratio to it"], rows)] if rows else []
        return "\n\n".join(parts)


def case_cells(case: Record) -> tuple[str, str]:
    """The value of a case's baseline, and the ratios of the others."""
    if not case["peers"]:
        return "–", case.get("failed") or f"not measured: {'; '.join(by_reason(case['skipped']))}"
    first, *others = case["peers"]
    found = ", ".join(f"{label} {case['peers'][label]['ratio']:.3f}" for label in others)
    lost = "; ".join(f"not measured: {', '.join(labels)} ({why})" for why, labels in by_reason(case["skipped"]).items())
    return f"{first} {case['peers'][first]['median']:.4g} {case['unit']}", "; ".join(filter(None, [found, lost])) or "–"


def case_lines(case: Record) -> Iterator[str]:
    """A case in a line, and one for each peer that it lacks."""
    if "kernels" in case:
        yield kernel_line(case)
        return
    yield f"{case['name']}: {case['failed'] if 'failed' in case else ratios(case)}"
    for why, labels in by_reason(case["skipped"] | case.get("notes", {})).items():
        yield f"  {', '.join(labels)}: {why}"


def by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Labels by what is said of them."""
    found: dict[str, list[str]] = {}
    for label, why in reasons.items():
        found.setdefault(why, []).append(label)
    return found


def kernel_line(case: Record) -> str:
    """What a step launches, in a line."""
    seen = case["kernels"]
    shares = ", ".join(f"{part} {share:.0%}" for part, share in seen["shares"].items() if share)
    return (
        f"{case['name']}: {seen['kernels']} {seen['are']} of {seen['kernels_s']:.4g} s in a step of "
        f"{seen['step_s']:.4g} s, which the host launches in {seen['host_s']:.4g} s, waiting {seen['waits']} times; "
        f"{shares}"
    )


def told_lines(name: str, record: Record) -> Iterator[str]:
    """What the parts that are no suites have found."""
    if name == "tests":
        yield f"tests: {tests_line(record['tests'])}"
        for test, seen in record["tests"].items():
            if seen["outcome"] == "failed":
                alone = f" (by itself it {seen['alone']})" if "alone" in seen else ""
                yield f"  failed: {test}{alone}: {seen['why']}"
    for case in record.get("cases", []):
        yield from case_lines(case)
    for label, run in record.get("training", {}).get("runs", {}).items():
        yield f"training, {label}: {training_line(run)}"


def tests_line(tests: Mapping[str, Any]) -> str:
    """How many tests came out how."""
    outcomes = [seen["outcome"] for seen in tests.values()]
    reasons = sorted({seen["why"] for seen in tests.values() if seen["outcome"] == "skipped"})
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("passed", "failed", "skipped"))
    return counts + (f" ({'; '.join(reasons)})" if reasons else "")


def training_line(run: Record) -> str:
    """Speed and accuracy of a run."""
    speed = f"{run['images_a_second']:.0f} images a second" if run.get("images_a_second") else "too few steps to time"
    top1 = f"top-1 {run['top1']:.1f}" if "top1" in run else "not finished"
    return f"{run.get('steps', 0)} steps, {speed}, {top1}"
