"""Joining, and what is said where it fails."""

import re
import threading

import pytest
import torch.distributed as dist

from ndpp_dense.distributed import LaunchOptions, launch
from ndpp_dense.distributed.join import join
from ndpp_dense.distributed.launch import _free_port
from ndpp_dense.distributed.place import Place

CPU = {"device": "cpu", "timeout": 0.5}


def test_one_process_runs_here_without_a_group():
    assert launch(lambda a, b: (a + b, dist.is_initialized()), LaunchOptions(**CPU), (1, 2)) == (3, False)


def test_all_faults_are_reported_at_once():
    with pytest.raises(ValueError, match="--num-gpus 0 .*--machine-rank 3 .*--dist-url tcp://.*--timeout 0"):
        LaunchOptions(num_gpus=0, num_machines=2, machine_rank=3, timeout=0)
    with pytest.raises(ValueError, match="--dist-url tcp://host:port must be auto or tcp://HOST:PORT"):
        LaunchOptions(dist_url="tcp://host:port")


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"2 GPU\(s\) needed on .*, 1 found.*--device cpu"):
        launch(print, LaunchOptions(num_gpus=2, device="cuda"))


def test_a_meeting_point_that_does_not_answer(monkeypatch):
    env = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConnectionError, match=r"did not find each other .*rank 1 of 2 .*127\.0\.0\.1:9, gloo"):
        launch(print, LaunchOptions(device="cpu", timeout=0.02))


def test_the_machines_that_do_not_answer_are_named():
    port, hosts, errors = _free_port(), ("n0", "n1", "n2"), []

    def come(rank):
        place = Place(rank, 6, rank % 2, rank // 2, "127.0.0.1", port, hosts=hosts)
        try:
            join(place, "gloo", 2 / 60)
        except ConnectionError as error:
            errors.append(str(error))

    others = [threading.Thread(target=come, args=(rank,)) for rank in (1, 4)]
    for other in others:
        other.start()
    come(0)
    for other in others:
        other.join()
    assert len(errors) == 3
    for message in errors:
        assert "after 2 s there is no answer from 3 of 6 ranks: 2, 3, 5. Not a word from n1." in message
        assert re.search(r"answered: \S+, 127\.0\.0\.1 \(ranks 0, 1, 4\)", message)
