"""What a part has measured so far and what it is at, in a file that is whole at every moment.

The process that measures writes it, the one that watches reads it. Should the first die, hang or run out of time, then
nothing that was measured is lost, and one that takes its place goes on after the peer at which it happened.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def write_whole(path: Path, content: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one."""
    part = path.with_name(f".{path.name}")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def read(path: Path) -> Record:
    """Reads a journal; an empty one where there is none yet."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


class Journal:
    """A part's record on disk.

    Args:
        path: Of the file; what an earlier process wrote there is gone on with.
        because: Why that process ended, if it did at a peer.

    Attributes:
        record: What was measured; call `write` after changing it.
    """

    def __init__(self, path: Path, because: str = "") -> None:
        found = read(path)
        self.path = path
        self.record: Record = found.get("record", {})
        self._culprits: dict[str, dict[str, str]] = found.get("culprits", {})
        at = found.get("at")
        if at and at["peer"]:
            self._culprits.setdefault(at["case"], {})[at["peer"]] = because or "the process ended there"
        elif at:
            self.record.setdefault("cases", []).append(failed_case(at["case"], because or "the process ended there"))
        self.leave()

    def done(self) -> set[str]:
        """Names of the cases that are measured, or that failed."""
        return {case["name"] for case in self.record.get("cases", [])}

    def culprits(self, case: str) -> dict[str, str]:
        """Peers of a case at which a process ended before, and why."""
        return dict(self._culprits.get(case, {}))

    def enter(self, case: str, peer: str = "") -> None:
        """Notes what is begun; a peer only while it is built."""
        self._at: Record | None = {"case": case, "peer": peer, "since": time.time()}
        self.write()

    def leave(self) -> None:
        """Notes that nothing is under way."""
        self._at = None
        self.write()

    def add(self, cases: list[Record]) -> None:
        """Adds what was measured."""
        self.record.setdefault("cases", []).extend(cases)
        self.leave()

    def write(self) -> None:
        """Writes everything."""
        write_whole(self.path, {"record": self.record, "culprits": self._culprits, "at": self._at})


def failed_case(name: str, why: str) -> Record:
    """The record of a case that could not be measured."""
    return {"name": name, "unit": "s", "rounds": 0, "peers": {}, "skipped": {}, "failed": why}
