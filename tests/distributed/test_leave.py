"""Nothing holds a process group any more once it was left, and its threads are gone."""

import sys
import threading
import weakref

import pytest
import torch.distributed as dist

from ndpp_dense.distributed.leave import leave


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield weakref.ref(dist.group.WORLD)
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_group_that_only_a_ring_of_objects_holds_ends(group):
    ring = [dist.group.WORLD]
    ring.append(ring)
    del ring
    leave()
    assert group() is None


def test_what_a_framework_keeps_is_let_go_first(group):
    kept = [dist.group.WORLD]
    leave(kept.clear)
    assert group() is None


def test_threads_of_a_group_that_somebody_holds_get_the_interpreter_once_more(group):
    held, released, done = dist.group.WORLD, threading.Lock(), []
    released.acquire()
    thread = threading.Thread(target=lambda: (released.acquire(), done.append(True)), daemon=True)
    thread.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(100)  # nobody gets the interpreter unless the one who has it waits
    try:
        leave(released.release)
        assert done
    finally:
        sys.setswitchinterval(before)
    assert group() is held


def test_without_a_group_the_error_says_so():
    with pytest.raises(ValueError, match="in no process group"):
        leave()
