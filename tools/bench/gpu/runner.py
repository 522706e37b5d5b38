"""Runs parts one after the other, each in a process and a time of its own, whatever befalls one of them.

Imports nothing but Python's own, so that it reports where nothing else works.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.gpu.journal import Record, read
from bench.gpu.processes import end_group, last_line

ATTEMPTS = 4  # processes of a part, at most
LEAST = 2.0  # seconds without which no part is begun
TICK = 0.1
DONE, PARTLY, FAILED, OUT_OF_TIME = "done", "done in part", "failed", "out of time"
STOPPED, NOT_BEGUN, LEFT_OUT, RUNNING = "stopped", "not begun", "left out", "running"


@dataclass(frozen=True)
class Part:
    """Something to run.

    Attributes:
        name: Of the part and of its journal.
        says: What it measures.
        command: Words of its process, from the seconds that it may take and why an earlier process ended.
        weight: Its share of the time, beside those of the parts that are still to run.
        goes_on: Whether a new process can go on where one died or hung.
        left_out: Why it is not run; empty to run it.
    """

    name: str
    says: str
    command: Callable[[float, str], Sequence[str]]
    weight: float
    goes_on: bool = False
    left_out: str = ""


@dataclass
class State:
    """How a part went: a state of the module's constants, seconds it took and was given, and a reason."""

    state: str = NOT_BEGUN
    seconds: float = 0.0
    limit: float = 0.0
    why: str = ""


class Runner:
    """Runs parts and knows how they went.

    Args:
        parts: In the order of their value.
        folder: Of the journals, ``NAME.json`` each.
        log: File that takes what the processes print.
        environment: Of the processes.
        patience: Seconds that one peer may take before its process is ended and another goes on without it.
        watch: Called with a part and its journal whenever that has changed.
        say: Takes lines on how it goes.

    Attributes:
        states: By name of the part.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        folder: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
        patience: float = 75.0,
        watch: Callable[[Part, Record], object] = lambda part, journal: None,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.parts = list(parts)
        self.folder = folder
        self.log = log
        self.states = {part.name: State() for part in parts}
        given = os.environ if environment is None else environment
        self._environment = {**given, "PYTHONUNBUFFERED": "1"}  # the log has what a process said before it was ended
        self._patience, self.watch, self._say = patience, watch, say
        self._stop = ""

    def stop(self, why: str) -> None:
        """Ends the part that runs and begins no other; to be called from a signal's handler."""
        self._stop = why

    def run(self, seconds: float) -> None:
        """Runs all parts within so many seconds; what a part leaves over goes to those after it."""
        end = time.monotonic() + seconds
        for number, part in enumerate(self.parts):
            state = self.states[part.name]
            if part.left_out:
                state.state, state.why = LEFT_OUT, part.left_out
                continue
            left = end - time.monotonic()
            share = part.weight / sum(other.weight for other in self.parts[number:] if not other.left_out)
            state.limit = max(0.0, left * share)
            if self._stop or state.limit < LEAST:
                state.why = self._stop or "the time was up"
                continue
            latest = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
            place = f"[{number + 1}/{len(self.parts)}] {part.name}"
            self._say(f"{place}: {part.says}; at most {state.limit:.0f} s, everything by {latest} at the latest")
            state.state, start = RUNNING, time.monotonic()
            state.state, state.why = self._run_part(part, start + state.limit)
            state.seconds = time.monotonic() - start
            self._say(f"{place}: {state.state} after {state.seconds:.0f} s{f': {state.why}' if state.why else ''}")

    def _run_part(self, part: Part, deadline: float) -> tuple[str, str]:
        """Runs a part's processes; returns its state and the reason for it."""
        because = ""
        for _ in range(ATTEMPTS):
            code, because = self._run_process(part, deadline, because)
            found = read(self.folder / f"{part.name}.json")
            if self._stop:
                return STOPPED, self._stop
            if code == 0:
                return _verdict(found)
            if because == OUT_OF_TIME:
                return OUT_OF_TIME, _where(found)
            if not (part.goes_on and found.get("at")):
                break
            self._say(f"    {_where(found)}: {because}; going on without it")
        return FAILED, because

    def _run_process(self, part: Part, deadline: float, because: str) -> tuple[int | None, str]:
        """Runs one process to its end; returns its exit code (None if it was ended) and why it is not 0."""
        words = list(part.command(max(LEAST, deadline - time.monotonic()), because))
        with self.log.open("ab") as log:
            log.write(f"\n=== {part.name}\n".encode())
            log.flush()
            process = subprocess.Popen(
                words,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        why = ""
        try:
            why = self._wait(process, part, deadline)
        finally:
            end_group(process)
        self.watch(part, read(self.folder / f"{part.name}.json"))
        if why:
            return None, why
        code = process.returncode
        return code, "" if code == 0 else f"{_ending(code)}: {last_line(self.log)}"

    def _wait(self, process: subprocess.Popen, part: Part, deadline: float) -> str:
        """Waits for a process; returns why it must be ended, or nothing if it has ended by itself."""
        path, seen, begun = self.folder / f"{part.name}.json", 0, time.time()
        while process.poll() is None:
            if self._stop:
                return self._stop
            if time.monotonic() > deadline:
                return OUT_OF_TIME
            changed = path.stat().st_mtime_ns if path.exists() else 0
            if changed != seen:
                seen = changed
                self.watch(part, read(path))
            at = read(path).get("at") or {}
            # Until the process has come that far, the journal says where the one before it ended.
            if at.get("peer") and time.time() - max(at["since"], begun) > self._patience:
                return f"no sign of life for {self._patience:.0f} s"
            time.sleep(TICK)
        return ""


def _verdict(found: Record) -> tuple[str, str]:
    cases = found.get("record", {}).get("cases", [])
    failed = [f"{case['name']}: {case['failed']}" for case in cases if "failed" in case]
    return (PARTLY, "; ".join(failed)) if failed else (DONE, "")


def _where(found: Record) -> str:
    at = found.get("at")
    return "" if not at else f"{at['peer'] or 'the rounds'} of {at['case']}"


def _ending(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
