"""A loader process that does not answer is not waited for beyond the timeout, and does not keep the run from ending."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ndpp_dense.distributed import LaunchOptions, launch
from ndpp_dense.distributed.patience import patience, patient, waiting_for_loaders

SECONDS = 2.0


class Pids(Dataset):
    """Gives the process that loads; the fifth item does harm to its own."""

    def __init__(self, harm=None):
        self.harm = harm

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 4 and self.harm is not None:
            os.kill(os.getpid(), self.harm)
        return os.getpid()


def load(harm, workers=1):
    return [int(pid) for pid in patient(DataLoader(Pids(harm), batch_size=None, num_workers=workers))]


def test_a_stopped_process_is_named_and_ended():
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"\(pids \d+\) for 2 s .*is stopped, or waits for a disk"):
        launch(load, LaunchOptions(device="cpu", timeout=SECONDS / 60), (signal.SIGSTOP,))
    assert SECONDS <= time.monotonic() - began < 30
    for child in multiprocessing.active_children():
        child.join(10)
        assert not child.is_alive()


class Waiting(Pids):
    """Gives tensors, which are fetched from the process that made them."""

    def __getitem__(self, index):
        return torch.full((100_000,), float(os.getpid()))


def stopped_after_it_was_done():
    batches = iter(patient(DataLoader(Waiting(), batch_size=None, num_workers=1, prefetch_factor=4)))
    pid = int(next(batches)[0])
    time.sleep(1)  # the next ones lie in the queue
    os.kill(pid, signal.SIGSTOP)
    list(batches)


def test_a_process_that_is_stopped_while_its_batch_is_fetched():
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"\(pids \d+\) for 2 s .*is stopped"):
        launch(stopped_after_it_was_done, LaunchOptions(device="cpu", timeout=SECONDS / 60))
    assert time.monotonic() - began < 30


def test_a_killed_process_is_named():
    with (
        pytest.raises(ChildProcessError, match=r"a loader process ended: .*Was it out of memory"),
        waiting_for_loaders(1),
    ):
        load(signal.SIGKILL)


def test_those_that_answer_are_not_touched():
    with waiting_for_loaders(1):
        assert patience() == 60
        assert len(set(load(None, workers=2))) == 2
        assert set(load(None, workers=0)) == {os.getpid()}
    assert patience() == 1800


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="mine"), waiting_for_loaders(1):
        raise RuntimeError("mine")
