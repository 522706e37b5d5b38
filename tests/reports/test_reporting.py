"""A report is written however a run ends, and changes nothing of how it ends."""

import logging

import pytest

from ndpp_dense.distributed.stopping import StoppedEarly
from ndpp_dense.reports.reporting import reported
from ndpp_dense.reports.surroundings import Clock, KeptWarnings, keeping_warnings


@pytest.mark.parametrize(
    ("end", "state"),
    [(StoppedEarly("stopped by a signal"), "stopped"), (FloatingPointError("NaN in conv1"), "diverged")],
)
def test_the_end_is_told_and_goes_on(end, state):
    written = []
    with pytest.raises(type(end)) as seen, reported(lambda *words: written.append(words)):
        raise end
    assert seen.value is end
    assert written == [(state, str(end))]


def test_a_run_that_came_to_its_end_has_a_report_and_one_with_an_error_has_none():
    written = []
    with reported(lambda *words: written.append(words)):
        pass
    assert written == [("finished", "")]
    with pytest.raises(ValueError, match="lr"), reported(lambda *words: written.append(words)):
        raise ValueError("lr is wrong")
    assert len(written) == 1


@pytest.mark.parametrize("end", [None, StoppedEarly("stopped by a signal")])
def test_a_report_that_fails_is_one_line(end, caplog):
    def broken(*_):
        raise OSError(28, "No space left on device")

    if end is None:
        with reported(broken):
            pass
    else:
        with pytest.raises(StoppedEarly) as seen, reported(broken):
            raise end
        assert (seen.value, seen.value.code) == (end, end.code)
    assert "report.html was not drawn (OSError" in caplog.text


def test_warnings_are_kept_once_each_and_only_within():
    logger = logging.getLogger("ndpp_dense.some.place")
    with keeping_warnings(["ndpp_dense"]) as kept:
        for value in (1, 1, 2):
            logger.warning("image %d\nis odd", value)
        logger.info("all is well")
    logger.warning("late")
    assert kept.texts == ["image 1 is odd (2 times)", "image 2 is odd"]


def test_a_million_different_warnings_do_not_fill_the_memory():
    kept = KeptWarnings()
    for number in range(1000):
        kept.emit(logging.LogRecord("a", logging.WARNING, "f", 1, "image %d", (number,), None))
    assert len(kept.texts) == 50


def test_an_evaluation_between_steps_does_not_count(monkeypatch):
    times = iter([0.0, 1.0, 2.0, 50.0, 51.0, 52.0, 60.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    clock = Clock()
    assert clock.seconds_a_step is None
    for _ in range(5):
        clock.step()
    assert (clock.seconds_a_step, clock.seconds) == (1.0, 60.0)
