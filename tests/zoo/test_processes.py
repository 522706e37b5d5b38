"""Several processes, and processes that are killed."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ndpp_dense.zoo.index import write_index

WORKER = Path(__file__).with_name("fetch_worker.py")
RANKS = Path(__file__).with_name("ranks_worker.py")


def _start(index, home):
    write_index(index)
    words = [sys.executable, str(WORKER), str(index.path), str(home)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_make_one_download(serve, behaviour, zoo, cache, content):
    does = behaviour(delay=0.1, block=50_000)
    index = zoo(serve(does))
    processes = [_start(index, cache.home) for _ in range(2)]
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert len(does.requests) == 1
    assert Path(outputs[0][0].strip()).read_bytes() == content


def test_a_kill_in_the_middle_leaves_nothing_half_written_and_is_gone_on_with(serve, behaviour, zoo, cache, content):
    does = behaviour(delay=0.2, block=50_000)
    index = zoo(serve(does))
    process = _start(index, cache.home)
    part, blob = (make(hashlib.sha256(content).hexdigest()) for make in (cache.part, cache.blob))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size >= 100_000):
        assert not blob.exists()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not blob.exists()
    saved = part.stat().st_size
    assert 100_000 <= saved < len(content)
    does.delay = 0.0
    second = _start(index, cache.home)
    out, errors = second.communicate(timeout=400)
    assert second.returncode == 0, errors
    assert Path(out.strip()).read_bytes() == content
    assert int(does.requests[-1]["Range"].removeprefix("bytes=").rstrip("-")) >= saved


@pytest.mark.parametrize("nodes", [1, 2])
def test_one_rank_of_a_node_fetches(serve, behaviour, zoo, run_ranks, monkeypatch, tmp_path, content, nodes):
    does = behaviour(delay=0.02)
    index = zoo(serve(does))
    write_index(index)
    homes = [str(tmp_path / f"home{rank % nodes}") for rank in range(2)]
    monkeypatch.setenv("NDPP_ZOO_INDEX", str(index.path))
    monkeypatch.setenv("NDPP_HOMES", os.pathsep.join(homes))
    found = run_ranks(RANKS)
    assert [Path(path).read_bytes() == content for path in found] == [True, True]
    assert [Path(path).parents[1] for path in found] == [Path(home) for home in homes]
    assert len(does.requests) == nodes


def test_a_failure_of_one_rank_is_one_of_all(serve, behaviour, zoo, run_ranks, monkeypatch, tmp_path):
    index = zoo(serve(behaviour(status=404)))
    write_index(index)
    monkeypatch.setenv("NDPP_ZOO_INDEX", str(index.path))
    monkeypatch.setenv("NDPP_HOMES", os.pathsep.join([str(tmp_path / "home")] * 2))
    found = run_ranks(RANKS)
    assert found[0] == found[1]
    assert found[0].startswith("error: rank 0 of 2 failed: toy: no source has")
