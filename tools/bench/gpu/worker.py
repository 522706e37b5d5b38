"""The process of one part: measures, and keeps the part's journal up to date.

    python -m bench.gpu.worker PART --journal FILE --seconds S [--rehearse] [--data FOLDER] [--because WORDS]

A case that fails is one that is not measured; the others go on. Where the GPU answers no more the process ends, and
another, which leaves out the peer at which it happened, can go on.
"""

import argparse
import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu.journal import Journal, failed_case
from bench.gpu.plan import PLAN

DEVICE_LOST = 3  # exit code
USED = 0.92  # share of its seconds that a part plans with
VARIABLE = "BENCH_COMMAND"  # names the command that the record says it was made with


def main(argv: list[str] | None = None) -> None:
    """Does what the command line says, and ends at once: threads of a group of processes may never end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PLAN)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--because", default="")
    args = parser.parse_args(argv)
    faulthandler.enable()
    faulthandler.register(signal.SIGTERM, chain=True)  # says in the log where the time was spent
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("bench").setLevel(logging.INFO)
    start = time.monotonic()
    journal = Journal(args.journal, args.because)
    code = run(args, journal, start + USED * args.seconds)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(args: argparse.Namespace, journal: Journal, end: float) -> int:
    """Runs the part until that moment; returns the exit code."""
    from bench.measure import DeviceLostError

    settings = settings_of(args.rehearse)
    if args.part == "tests":
        from bench.gpu.gpu_tests import run_tests

        run_tests(journal, end - time.monotonic())
    elif args.part == "training":
        from bench.gpu.training import train_both

        train_both(journal, settings, args.data)
    else:
        try:
            PARTS[args.part](journal, settings, end)
        except DeviceLostError:
            logging.getLogger("bench").exception("the GPU answers no more")
            return DEVICE_LOST
    return 0


def settings_of(rehearse: bool) -> Any:
    """How the parts measure: on a GPU in bfloat16; in a rehearsal as small as can be on the CPU.

    Many CPUs take minutes for convolutions in bfloat16, so a rehearsal leaves autocast out of training steps.
    """
    import torch

    from bench.case import Settings

    if rehearse:
        torch.set_num_threads(1)
        return Settings(device="cpu", channels_last=True, rehearse=True, rounds=1, warmup=0)
    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU")
    torch.backends.cudnn.benchmark = True
    return Settings(device="cuda", amp=True, channels_last=True, rounds=10, warmup=2)


def look_at_machine(journal: Journal, settings: Any, end: float) -> None:
    """Notes what is installed and computes something; without a GPU that works, everything else fails likewise."""
    import torch

    from bench.machine import installed, machine

    journal.record["machine"] = {**machine(settings), "packages": installed()}
    journal.write()
    a = torch.randn(256, 256, device=settings.device, dtype=torch.bfloat16)
    if not bool(torch.isfinite((a @ a).sum())):
        raise RuntimeError(f"a product of matrices is not finite on {settings.device}")


def measure_suite(name: str, journal: Journal, settings: Any, end: float) -> None:
    """Measures the cases of a suite."""
    from bench.gpu import cases
    from bench.machine import machine

    makers = {
        "backbone": cases.backbone_cases,
        "detector": cases.detector_cases,
        "segmentor": cases.segmentor_cases,
        "inference": cases.inference_cases,
        "pooling": cases.pooling_cases,
    }
    if name == "inference":
        settings = replace(settings, rounds=settings.rounds * 4)  # they are short
    head = {"suite": name, "says": PLAN[name].says, "command": os.environ.get(VARIABLE, "")}
    journal.record |= {**head, "rehearsal": settings.rehearse}
    journal.record.setdefault("machine", machine(settings))
    todo = {case.name: case for case in makers[name](settings) if case.name not in journal.done()}
    for number, (label, case) in enumerate(todo.items()):
        share = replace(settings, budget=max(0.0, end - time.monotonic()) / (len(todo) - number))
        measure(journal, label, partial(_records_of, journal, case, share))


def _records_of(journal: Journal, case: Any, settings: Any) -> list[dict[str, Any]]:
    from bench.measure import case_records

    found = case_records(case, settings, str, partial(journal.enter, case.name), journal.culprits(case.name))
    skipped = found[0]["skipped"].values()
    if not found[0]["peers"] and not all(why.startswith("NotImplementedError") for why in skipped):
        found[0]["failed"] = "nothing could be measured"
    return found


def look_at_kernels(journal: Journal, settings: Any, end: float) -> None:
    """Looks at what a step of ResNet-50 launches, and one of Mask R-CNN."""
    from bench.gpu.cases import kernel_steps
    from bench.gpu.kernels import kernels_of

    for label, build in kernel_steps(settings).items():
        if label not in journal.done():
            journal.enter(label, "its kernels")
            found = {"name": label, "unit": "s", "peers": {}, "skipped": {}}
            measure(
                journal, label, lambda build=build, found=found: [{**found, "kernels": kernels_of(build(), settings)}]
            )


def measure(journal: Journal, name: str, make: Callable[[], list[dict[str, Any]]]) -> None:
    """Adds the records of a case, or that it failed.

    Raises:
        DeviceLostError: The GPU answers no more.
    """
    from bench.measure import DeviceLostError, reason

    try:
        found = make()
    except DeviceLostError:
        raise
    except Exception as error:
        found = [failed_case(name, reason(error))]
    journal.record["load_after"] = list(os.getloadavg())
    journal.add(found)


PARTS: dict[str, Callable[[Journal, Any, float], None]] = {
    "machine": look_at_machine,
    "kernels": look_at_kernels,
    **{name: partial(measure_suite, name) for name, part in PLAN.items() if part.suite},
}

if __name__ == "__main__":
    main()
