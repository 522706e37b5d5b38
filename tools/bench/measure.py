"""How the peers of a case are built and measured, whatever befalls one of them, and the records made of that."""

import gc
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bench.case import Case, Measure, Settings, Step
from bench.memory import cpu_peak, cuda_peak
from bench.timing import graphed, interleave, summarise, timer

_log = logging.getLogger(__name__)
Note = Callable[[str], object]


class PeerError(Exception):
    """A peer failed after it was built; `label` names it."""

    def __init__(self, label: str, why: str) -> None:
        super().__init__(why)
        self.label = label


class DeviceLostError(RuntimeError):
    """The GPU answers no more in this process: nothing else can be measured in it."""


@dataclass
class Outcome:
    """What was measured.

    Attributes:
        values: By label, one a round.
        skipped: Why the other labels have none.
        peaks: Of memory, in MB by label, where they were asked for.
        notes: What is odd about a label that was measured.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def case_records(
    case: Case, settings: Settings, tick: Note, begin: Note = str, known: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Measures a case and returns its record, and one of the peaks of memory where they were taken.

    Args:
        case: What to measure.
        settings: Rounds and budget, of this case.
        tick: Called with the label after every step.
        begin: Called with the label before a peer is built, with an empty one before the rounds.
        known: Peers that are not to be built, and why.

    Raises:
        DeviceLostError: The GPU answers no more.
    """
    if case.exact:
        settings = replace(settings, rounds=1, warmup=0, graph=False)
    outcome = measure_case(case, settings, case.measure or timer(settings), tick, begin, known)
    rounds = len(next(iter(outcome.values.values()), []))
    found = {"name": case.name, "unit": case.unit, "rounds": rounds, "peers": {}, "skipped": outcome.skipped}
    if outcome.values:
        found["peers"] = summarise(outcome.values)
    if outcome.notes:
        found["notes"] = outcome.notes
    peaks = {label: [outcome.peaks[label]] for label in outcome.values if label in outcome.peaks}
    if not peaks:
        return [found]
    name = f"peak memory, {case.name}"
    return [found, {"name": name, "unit": "MB", "rounds": 1, "peers": summarise(peaks), "skipped": {}}]


def measure_case(
    case: Case,
    settings: Settings,
    measure: Measure,
    tick: Note,
    begin: Note = str,
    known: Mapping[str, str] | None = None,
) -> Outcome:
    """Builds the peers of a case, runs each once to warm up, and measures them.

    A peer that fails is left out, with the reason; the first of the others is the baseline then. See `case_records`.
    """
    outcome, steps = Outcome(skipped=dict(known or {})), {}
    start = time.monotonic()
    for label in case.peers:
        if label not in outcome.skipped:
            begin(label)
            try:
                steps[label] = _built(case, label, settings, outcome)
            except Exception as error:
                outcome.skipped[label] = reason(error)
            if label in outcome.skipped:
                _make_room(settings)
        tick(label)
    begin("")
    while steps:
        left = settings.budget - (time.monotonic() - start)
        try:
            timed = {label: _guarded(label, step) for label, step in steps.items()}
            outcome.values = interleave(timed, measure, settings.rounds, settings.warmup, left, tick)
            break
        except PeerError as error:
            outcome.skipped[error.label] = str(error)
            del steps[error.label]
            begin(error.label)  # should the GPU answer no more, then this is where it happened
            _make_room(settings)
            begin("")
    return outcome


def _built(case: Case, label: str, settings: Settings, outcome: Outcome) -> Step:
    """A peer's step, after its first run; an exact one needs none."""
    cuda = settings.device == "cuda"
    torch.manual_seed(0)
    before = torch.cuda.memory_allocated() if cuda else 0
    step = case.peers[label]()
    if case.exact:
        return step
    result: list[object] = []
    if not settings.rehearse:
        step()
    if case.peak:
        held = torch.cuda.memory_allocated() - before if cuda else 0
        peak = (cuda_peak if cuda else cpu_peak)(lambda: result.append(step()))
        outcome.peaks[label] = (held + peak) / 1e6
    else:
        result.append(step())
    if isinstance(result[0], Tensor) and not bool(torch.isfinite(result[0]).all()):
        outcome.notes[label] = "its result is not finite"
    return graphed(step) if settings.graph else step


def _guarded(label: str, step: Step) -> Step:
    def runs() -> object:
        try:
            return step()
        except Exception as error:
            raise PeerError(label, reason(error)) from error

    return runs


def reason(error: BaseException) -> str:
    """Kind and first line of an error; where it arose goes to the log."""
    _log.info("left out", exc_info=error)
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def _make_room(settings: Settings) -> None:
    """Frees what a failed peer held.

    Raises:
        DeviceLostError: The GPU answers no more.
    """
    gc.collect()
    if settings.device != "cuda":
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.rand(8, device="cuda").sum().item()
    except RuntimeError as error:
        raise DeviceLostError(reason(error)) from error
