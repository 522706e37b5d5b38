"""Signals that ask a run to end."""

import os
import signal

import pytest

from ndpp_dense.distributed.stopping import EXIT_CODE, StoppedEarly, stop_asked, watching_for_stop


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
