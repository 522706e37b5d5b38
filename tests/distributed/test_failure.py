"""Which message each rank ends with."""

import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from ndpp_dense.distributed import failure
from ndpp_dense.distributed.failure import OtherRankError, sharing_failures

LOST = "[gloo] Connection closed by peer"


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch):
    for name in ("_PATIENCE", "_MOMENT"):
        monkeypatch.setattr(failure, name, timedelta(seconds=0.2))


def fail(store, rank, error):
    with sharing_failures(store, rank, 3, serves=False):
        raise error


def test_the_first_failure_is_told_by_all():
    store = dist.HashStore()
    with pytest.raises(ValueError, match="^a bad image$"):
        fail(store, 1, ValueError("a bad image"))
    with pytest.raises(OtherRankError, match="process 1 on .*: a bad image"):
        fail(store, 0, RuntimeError(LOST))
    with pytest.raises(ValueError, match="^another$"):  # of its own, so it says so
        fail(store, 2, ValueError("another"))


def test_who_is_silent_is_named():
    store = dist.HashStore()
    store.set("read/2", "")
    for rank in (0, 2):
        with pytest.raises(OtherRankError, match=r"broke off \(.*Timed out.*\); not a word from process 1"):
            fail(store, rank, RuntimeError("[gloo] Timed out waiting 60000ms\nand where"))


def test_nobody_is_blamed_where_all_have_spoken():
    store = dist.HashStore()
    for rank in range(3):
        store.set(f"read/{rank}", "")
    with pytest.raises(OtherRankError, match=r"broke off \(.*by peer\)\. Was one"):
        fail(store, 0, dist.DistNetworkError(LOST))


class Gone:
    def compare_set(self, *words):
        raise RuntimeError("Broken pipe")


class Mute:
    def compare_set(self, *words):
        time.sleep(3600)


@pytest.mark.parametrize("store", [Gone(), Mute()])
def test_where_the_store_does_not_answer_nobody_waits_for_it(store):
    with pytest.raises(OtherRankError, match=r"broke off \(.*by peer\); where the processes meet nobody answers\. Was"):
        fail(store, 0, RuntimeError(LOST))
    with pytest.raises(ValueError, match="^a bad image$"):
        fail(store, 0, ValueError("a bad image"))


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="^out of memory$"):
        fail(dist.HashStore(), 0, RuntimeError("out of memory"))
    with pytest.raises(KeyError):
        fail(Gone(), 0, KeyError("x"))
