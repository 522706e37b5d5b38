"""Kills a training tool at random moments, resumes it, and compares its end with that of a run left alone.

`python killer.py TOOL FOLDER KILLS SEED WORDS...` prints a line a kill; ends with code 1 where a bit differs.
Imports are done once: every run is a fork of this process, which itself never trains.
"""

import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
TOOLS = {
    # command, flag of the folder, last checkpoint, its parts that must be equal, scratch folders of a save
    "train-det": ("--output", "model_final.pth", None, ".model_*.pth-*", "ndpp_dense.integrations.detectron2.run"),
    "train-seg": (
        "--work-dir",
        "iter_6.pth",
        ("state_dict", "optimizer", "param_schedulers", "ndpp_random_states"),
        ".iter_*.pth-*",
        "ndpp_dense.integrations.mmseg.run",
    ),
    "pretrain": ("--output", "last.pth", None, ".last.pth-*", "ndpp_dense.pretrain.run"),
}


def start(tool, folder, words):
    """Fork a run; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    from ndpp_dense.cli.main import main

    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        code = main([tool, *words, TOOLS[tool][0], str(folder), "--resume"]) or 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(pid, block=False):
    """The exit code of a run; None while it runs, negative after a signal."""
    found, status = os.waitpid(pid, 0 if block else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def kill(tool, folder, pid, delay, saving):
    """Kill it after some seconds, or in the next save after them; returns the moment in words, None if it had ended."""
    began, old = time.monotonic(), set(folder.glob(TOOLS[tool][3]))  # what killed runs have left
    while time.monotonic() - began < delay:
        if ended(pid) is not None:
            return None
        time.sleep(0.01)
    while saving and not set(folder.glob(TOOLS[tool][3])) - old:
        if ended(pid) is not None:
            return None
    os.kill(pid, signal.SIGKILL)
    ended(pid, block=True)
    left = [path.name for path in folder.glob(TOOLS[tool][3]) if path not in old]
    return f"after {time.monotonic() - began:.2f} s{f', while it wrote {left[0]}' if left else ''}"


def parts(value, name=""):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list | tuple):
            yield from parts(item, f"{name}.{key}")
        else:
            yield f"{name}.{key}", item


def differences(tool, one, other):
    from ndpp_dense.weights.files import read_checkpoint

    a, b = (read_checkpoint(folder / TOOLS[tool][1]) for folder in (one, other))
    a, b = (dict(parts(x if TOOLS[tool][2] is None else {key: x[key] for key in TOOLS[tool][2]})) for x in (a, b))
    names = [
        name
        for name in a.keys() & b.keys()
        if not (torch.equal(a[name], b[name]) if torch.is_tensor(a[name]) else a[name] == b[name])
    ]
    return sorted(a.keys() ^ b.keys()) + names


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(tool, base, kills, seed, *words):
    torch.set_num_threads(1)
    importlib.import_module(TOOLS[tool][4])
    base, chance = Path(base), random.Random(int(seed))
    whole = base / "whole"
    began = time.monotonic()
    code = ended(start(tool, whole, words), block=True)
    length = time.monotonic() - began
    if code:
        raise SystemExit((base / "whole.log").read_text())
    done, runs, different = 0, 0, []
    while done < int(kills):
        runs += 1
        folder = base / f"killed{runs}"
        for _ in range(chance.randint(1, 5)):
            if done == int(kills):
                break
            saving = chance.random() < 0.4
            moment = kill(tool, folder, start(tool, folder, words), chance.uniform(0, 0.8 * length), saving)
            if moment is None:
                break
            done += 1
            say(f"{tool}: kill {done} of {kills}, run {runs}, {moment}")
        code = ended(start(tool, folder, words), block=True)
        if code:
            raise SystemExit(Path(f"{folder}.log").read_text())
        different += [f"run {runs}: {name}" for name in differences(tool, whole, folder)]
    found = different[:5] or "nothing"
    say(f"{tool}: {done} kills in {runs} runs of {length:.0f} s; different from the run left alone: {found}")
    raise SystemExit(bool(different))


if __name__ == "__main__":
    main(*sys.argv[1:])
