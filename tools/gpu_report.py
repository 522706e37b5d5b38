#!/usr/bin/env python
"""Measure the project on a GPU, on a machine without network, in minutes: tests, training, inference, memory, kernels.

    make gpu-kit                                                  # where there is a network
    python tools/gpu_report.py --output output/gpu --data IMAGES  # on the GPU machine, with the folder .whl
    python tools/gpu_report.py --rehearse                         # the same in tiny on a CPU

The wheels of the kit go to a folder of their own. Then the parts run, the most valuable first, each in a process and a
time of its own. Whatever is measured is in the output folder at once, in eight files at the most: copy the records
(.json) and the picture to docs/results/bench, and `python tools/benchmark.py table` shows them in docs/performance.md.
"""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.gpu.plan import PLAN
from bench.gpu.processes import last_line
from bench.gpu.runner import DONE, LEFT_OUT, Part, Runner
from bench.gpu.summary import LOG, PICTURE, Report
from records import ROOT

sys.path.append(str(ROOT))  # nothing needs to be installed

from ndpp_dense.cli.errors import readable_errors  # noqa: E402
from ndpp_dense.cli.output import say  # noqa: E402

RESERVE, KIT = 20.0, 90.0  # seconds that are kept for what is shown at the end, and that the kit may take
PATIENCE, REHEARSAL_PATIENCE = 45.0, 300.0  # seconds that a peer may take to be built and run first
NO_GPU = 9  # exit code
NOT_ASKED = "--data names no images"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=9.0, help="in all, at most (default 9); parts get shares of it")
    add("--output", type=Path, default=Path("output/gpu"), metavar="FOLDER", help="default: output/gpu")
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="images to train on: train/CLASS/*, val/CLASS/*, or a .tar",
    )
    add("--kit", type=Path, default=ROOT / ".whl", metavar="FOLDER", help="of wheels (default .whl)")
    add("--commit", metavar="WORDS", help="for the records, where git does not tell it")
    add("--part", nargs="+", choices=PLAN, metavar="NAME", help=f"only these: {', '.join(PLAN)}")
    add("--rehearse", action="store_true", help="reach every part on the CPU, with tiny sizes")
    add("--traceback", action="store_true", help="show where an error arose")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure everything; returns 0 if every part that was asked for is done, 1 if not."""
    args = parser().parse_args(argv)
    end = time.monotonic() + 60 * args.minutes - RESERVE
    with readable_errors(args.traceback):
        check(args)
        args.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            return measure(args, Path(scratch), end)


def check(args: argparse.Namespace) -> None:
    """Refuses what cannot be measured.

    Raises:
        ValueError: There is too little time, no GPU, or a report in the output folder.
        FileNotFoundError: There are no such images.
    """
    if not 1 <= args.minutes <= 600:
        raise ValueError(f"--minutes {args.minutes:g}: it must be from 1 to 600.")
    if any(args.output.glob("gpu_*.json")):
        raise ValueError(f"--output {args.output} holds a report already: name another folder.")
    if args.data is not None and not args.data.exists():
        raise FileNotFoundError(f"--data {args.data}: there is no such folder or file.")
    if not args.rehearse:
        code = f"import sys, torch; sys.exit(0 if torch.cuda.is_available() else {NO_GPU})"
        if subprocess.run([sys.executable, "-c", code], check=False).returncode == NO_GPU:
            raise ValueError("torch sees no GPU here. --rehearse reaches every part on the CPU.")


def measure(args: argparse.Namespace, scratch: Path, end: float) -> int:
    """Install the kit, run the parts until that moment, and show what came out."""
    log = args.output / LOG
    log.unlink(missing_ok=True)
    notes, environment = prepare(args.kit, scratch, log)
    environment |= {"BENCH_COMMAND": command(args), **({"BENCH_COMMIT": args.commit} if args.commit else {})}
    patience = REHEARSAL_PATIENCE if args.rehearse else PATIENCE
    runner = Runner(parts_of(args, scratch), scratch, log, environment, patience, say=say)
    suites = {name: part.says for name, part in PLAN.items() if part.suite}
    report = Report(args.output, "cpu" if args.rehearse else "cuda", command(args), runner.states, suites)
    report.record["notes"] = notes
    for line in notes:
        say(line)
    runner.watch = lambda part, journal: [say(line) for line in report.take(part, journal)]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: runner.stop(f"stopped by {signal.Signals(number).name}"))
    try:
        runner.run(max(0.0, end - time.monotonic()))
    finally:
        report.write()
        say("\n" + report.tables() + "\n")
    draw(args.output, environment, log, end + RESERVE - time.monotonic())
    files = sorted(path for path in args.output.iterdir() if path.is_file())
    size = sum(path.stat().st_size for path in files) / 2**20
    say(f"{len(files)} files in {args.output}, {size:.2f} MiB: {', '.join(path.name for path in files)}")
    return 0 if all(fine(state) for state in runner.states.values()) else 1


def fine(state: Any) -> bool:
    """Whether a part is done, or was not asked for."""
    return state.state == DONE or (state.state == LEFT_OUT and state.why == NOT_ASKED)


def command(args: argparse.Namespace) -> str:
    """What the records say that they were made with: places on this machine are no matter of the measurement."""
    words = ["python tools/gpu_report.py", f"--minutes {args.minutes:g}"]
    words += ["--rehearse"] if args.rehearse else []
    words += ["--data IMAGES"] if args.data else []
    return " ".join([*words, *(["--part", *args.part] if args.part else [])])


def prepare(kit: Path, scratch: Path, log: Path) -> tuple[list[str], dict[str, str]]:
    """Install the kit; returns what there is to say about it and the environment for the parts."""
    site, wheels, notes = scratch / "site", sorted(kit.glob("*.whl")), []
    if wheels:
        size = sum(wheel.stat().st_size for wheel in wheels) / 2**20
        notes.append(f"kit: {len(wheels)} wheels, {size:.1f} MiB, {install(wheels, site, log)}")
    else:
        notes.append(f"kit: no wheels in {kit.name}; what is installed is used (make gpu-kit)")
    sys.path.insert(0, str(site))
    places = [site, ROOT / "tools", ROOT]
    if importlib.util.find_spec("cv2") is None:
        places.insert(0, ROOT / "tools" / "bench" / "stand_ins")
        notes.append("OpenCV is not installed: a stand-in answers for it, which no measured step calls")
    inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    own = {"PYTHONPATH": os.pathsep.join([*map(str, places), *inherited]), "PYTHONUNBUFFERED": "1"}
    caches = ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "FVCORE_CACHE")
    own |= {name: str(scratch / name.lower()) for name in caches}
    own |= {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
    return notes, {**os.environ, **own}


def install(wheels: list[Path], site: Path, log: Path) -> str:
    """Install wheels into a folder; returns how it went."""
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    words += ["--no-deps", "--no-compile", "--no-cache-dir", "--target", str(site), *map(str, wheels)]
    start = time.monotonic()
    try:
        with log.open("ab") as stream:
            subprocess.run(words, stdout=stream, stderr=stream, check=True, timeout=KIT)
    except (subprocess.SubprocessError, OSError) as error:
        return f"not installed ({type(error).__name__}): {last_line(log)}"
    return f"installed in {time.monotonic() - start:.0f} s"


def parts_of(args: argparse.Namespace, scratch: Path) -> list[Part]:
    """The parts that were asked for, as processes."""
    parts = []
    for name, measured in PLAN.items():
        if args.part and name not in args.part:
            continue
        words = [sys.executable, "-m", "bench.gpu.worker", name, "--journal", str(scratch / f"{name}.json")]
        words += ["--rehearse"] if args.rehearse else []
        words += ["--data", str(args.data.resolve())] if args.data else []

        def whole(seconds: float, because: str, words: list[str] = words) -> list[str]:
            return [*words, "--seconds", f"{seconds:.1f}", "--because", because]

        missing = [module for module in measured.needs if importlib.util.find_spec(module) is None]
        why = f"{', '.join(missing)} not installed" if missing else ""
        if name == "training" and not (args.data or args.rehearse):
            why = NOT_ASKED
        parts.append(Part(name, measured.says, whole, measured.seconds, goes_on=measured.suite, left_out=why))
    return parts


def draw(output: Path, environment: dict[str, str], log: Path, seconds: float) -> None:
    """Draw the picture in a process of its own: fonts may have to be looked for first."""
    words = [sys.executable, "-m", "bench.gpu.picture", str(output), PICTURE]
    try:
        with log.open("ab") as stream:
            subprocess.run(words, env=environment, stdout=stream, stderr=stream, check=True, timeout=max(1, seconds))
    except (subprocess.SubprocessError, OSError) as error:
        say(f"no picture: {type(error).__name__}, see {log.name}")


if __name__ == "__main__":
    raise SystemExit(main())
