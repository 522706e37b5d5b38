"""Runs one training as several numbers of processes: WORKER.py OUT_FOLDER SPLITS [FIRST_RANK LOCAL_RANKS URL].

Processes are forked after the imports, which take longer than the training.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run_splits(train: Callable[[Path], Any]) -> None:
    """Calls ``train(scratch_folder)`` in every process and saves what the first of each number of processes returns."""
    torch.set_num_threads(1)
    folder, worlds, *place = sys.argv[1:]
    for world in map(int, worlds.split(",")):
        first, local, url = (
            (int(place[0]), int(place[1]), place[2]) if place else (0, world, f"file://{folder}/{world}")
        )
        children = [_fork(train, Path(folder), rank, world, url) for rank in range(first, first + local)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            sys.exit(f"exit codes with {world} process(es): {codes}")


def _fork(train: Callable[[Path], Any], folder: Path, rank: int, world: int, url: str) -> int:
    child = os.fork()
    if child:
        return child
    try:
        if world > 1:
            dist.init_process_group("gloo", init_method=url, rank=rank, world_size=world)
        result = train(folder / f"run{world}")
        if rank == 0:
            torch.save(result, folder / f"{world}.pt")
        if world > 1:
            dist.destroy_process_group()
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)
