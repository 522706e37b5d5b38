"""Signals that ask a run to end."""

import os
import signal

import pytest

from ndpp_dense.distributed.stopping import EXIT_CODE, StoppedEarly, stop_asked, stopping_at_once, watching_for_stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_ask(number):
    before = signal.getsignal(number)
    with watching_for_stop():
        assert not stop_asked()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop_asked()
    assert not stop_asked()
    assert signal.getsignal(number) == before


def test_stopping_has_a_code_to_requeue_on():
    error = StoppedEarly("why")
    assert (error.code, str(error)) == (EXIT_CODE, "why") == (75, "why")


def test_work_that_leaves_nothing_ends_at_once(caplog):
    with watching_for_stop():
        message = "the evaluation was stopped by a signal.*Exit code 75"
        with pytest.raises(StoppedEarly, match=message) as caught, stopping_at_once("the evaluation"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.code == 75
        assert "the evaluation was stopped" in caplog.text
        with pytest.raises(StoppedEarly), stopping_at_once("the next"):  # the signal came before
            raise AssertionError("it began")


def test_a_loader_process_leaves_signals_to_its_parent():
    with watching_for_stop(), stopping_at_once("the evaluation"):
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
