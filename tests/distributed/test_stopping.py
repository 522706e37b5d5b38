"""Signals that ask a run to end."""

import multiprocessing
import os
import signal
import subprocess
import time

import pytest
import torch

from ndpp_dense.distributed import stopping
from ndpp_dense.distributed.stopping import (
    EXIT_CODE,
    INTERRUPTED,
    StoppedEarly,
    UntilStopped,
    finishing_the_step,
    stop_agreed,
    stop_asked,
    stop_vote,
    stopping_at_once,
    watching_for_stop,
)


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
    error = StoppedEarly("why.")
    assert (error.code, str(error)) == (EXIT_CODE, "why. Exit code 75.")
    assert EXIT_CODE == 75


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


class Slow(torch.utils.data.Dataset):
    """Tells the process that made an item."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(0.02)
        return os.getpid()


def test_loader_processes_live_through_a_signal_to_the_whole_job():
    with watching_for_stop():
        made = []
        for batch in torch.utils.data.DataLoader(Slow(), batch_size=4, num_workers=2):
            made.append(set(batch.tolist()))
            if len(made) == 2:
                for pid in set.union(*made):
                    subprocess.run(["kill", "-TERM", str(pid)], check=True)
    assert len(made) == 10
    assert len(set.union(*made)) == 2


def test_a_run_can_end_its_own_loader_processes():
    with watching_for_stop():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join(20)
        assert child.exitcode == 0


@pytest.fixture
def _in_the_foreground():
    """A shell starts what it runs in the background with the signal ignored, pytest too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_in_the_foreground")
def test_an_interruption_asks_while_a_run_trains(capsys):
    before = signal.getsignal(signal.SIGINT)
    with watching_for_stop():
        with pytest.raises(KeyboardInterrupt):  # nothing would be lost
            os.kill(os.getpid(), signal.SIGINT)
        with finishing_the_step():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # the same press, passed on by a launcher
            assert stop_asked()
            assert StoppedEarly("why.").code == INTERRUPTED == 130
    assert capsys.readouterr().err.splitlines() == [
        "interrupted: a checkpoint is saved after this step; Ctrl-C again ends without"
    ]
    assert signal.getsignal(signal.SIGINT) == before
    assert StoppedEarly("why.").code == EXIT_CODE


@pytest.mark.usefixtures("_in_the_foreground")
def test_a_second_interruption_ends_at_once(capsys):
    with watching_for_stop(), finishing_the_step():
        pid = os.fork()
        if pid == 0:
            # A process of its own in every way but for the number that the handler was made with.
            with watching_for_stop(), finishing_the_step():
                os.kill(os.getpid(), signal.SIGINT)
                stopping._pressed[0] -= 2  # seconds later
                os.kill(os.getpid(), signal.SIGINT)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGINT


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_all_ranks_end_with_the_code_of_the_one_that_was_asked(number, code):
    with watching_for_stop(), finishing_the_step():
        os.kill(os.getpid(), number)
        vote = stop_vote()
    with watching_for_stop():
        assert not stop_agreed(3 * stop_vote())
        assert stop_agreed(vote + 7 * stop_vote())
        assert StoppedEarly("why.").code == code


def test_batches_end_where_a_stop_is_asked():
    loader = UntilStopped([1, 2, 3])
    assert (list(loader), len(loader), loader.index(2)) == ([1, 2, 3], 3, 1)
    taken = []
    with watching_for_stop():
        for batch in loader:
            taken.append(batch)
            os.kill(os.getpid(), signal.SIGTERM)
    assert taken == [1]
