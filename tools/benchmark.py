#!/usr/bin/env python
"""Measure ND++ and the pooling backbones against their peers: time, memory and communication.

    python tools/benchmark.py --quick
    python tools/benchmark.py --suite backbone inference --threads 2 --output docs/results/bench
    python tools/benchmark.py table

Each suite leaves a JSON file and a figure in the output folder; `table` writes docs/performance.md from those in
docs/results/bench. All peers of a case run in one process, interleaved; see docs/performance.md for the method.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ndpp_dense.cli.errors import readable_errors

QUICK = {"budget": 25.0, "rounds": 5, "warmup": 0}  # the trial step of every peer warms up
FULL = {"budget": 900.0, "rounds": 10, "warmup": 1}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--suite", nargs="+", metavar="NAME", help="default: all that need no detection framework")
    parser.add_argument("--case", default="", metavar="WORDS", help="only cases whose name has these words in it")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1, help="of torch on the CPU")
    parser.add_argument("--rounds", type=int, help=f"to keep, at most (default {FULL['rounds']})")
    parser.add_argument("--warmup", type=int, help=f"rounds to drop (default {FULL['warmup']})")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="of a suite; three rounds are kept all the same"
    )
    parser.add_argument("--amp", action="store_true", help="compute in bfloat16")
    parser.add_argument("--channels-last", action="store_true", help="lay images and weights out so")
    parser.add_argument("--graph", action="store_true", help="replay steps as CUDA graphs")
    parser.add_argument("--profile", action="store_true", help="time the parts of ND++'s step too (suite backbone)")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="of photographs (suite solver)")
    parser.add_argument("--output", type=Path, default=Path("output/bench"), metavar="FOLDER")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


def settings_of(args: argparse.Namespace) -> Any:
    """Return what the command line says about measuring, and pin torch to it.

    Raises:
        ValueError: A number is out of range, or CUDA is asked for where there is none.
    """
    import torch
    from bench.allocator import keep_freed_memory
    from bench.case import Settings

    chosen = {**(QUICK if args.quick else FULL)}
    chosen |= {name: value for name in chosen if (value := getattr(args, name)) is not None}
    if chosen["rounds"] < 1 or chosen["warmup"] < 0 or chosen["budget"] <= 0:
        raise ValueError(f"--rounds must be at least 1, --warmup 0 and --budget more than 0, got {chosen}.")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU. Leave the flag out to measure on the CPU.")
    if args.graph and device != "cuda":
        raise ValueError("--graph replays CUDA graphs: it needs --device cuda.")
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    names = ("quick", "threads", "amp", "channels_last", "graph", "profile", "images")
    flags = {name: getattr(args, name) for name in names}
    return Settings(device=device, **flags, **chosen)


def selected(names: list[str] | None) -> list[str]:
    """Return the suites to run.

    Raises:
        ValueError: Unknown name; the nearest is named.
    """
    from bench.suites import SUITES

    for name in names or []:
        if name not in SUITES:
            near = get_close_matches(name.lower(), SUITES, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown suite {name!r}.{hint} Suites: {', '.join(SUITES)}.")
    return names or [name for name, suite in SUITES.items() if suite.quick]


def run_suite(name: str, settings: Any, folder: Path, command: str, wanted: str = "") -> None:
    """Measure a suite and write its files; one whose framework is missing is named and passed over.

    Raises:
        ValueError: No case has the wanted words in its name; names the cases.
    """
    from bench.figure import draw
    from bench.machine import machine, stem
    from bench.report import write_json
    from bench.suites import SUITES

    from ndpp_dense.atomic_file import replacing

    suite = SUITES[name]
    missing = [module for module in suite.needs if find_spec(module) is None]
    if missing:
        print(f"{name}: left out, {' and '.join(missing)} not installed: {suite.install}", flush=True)
        return
    record = {"suite": name, "says": suite.says, "command": command, "machine": machine(settings), "cases": []}
    start = time.monotonic()
    known = suite.cases(settings)
    cases = [case for case in known if wanted in case.name]
    if not cases:
        raise ValueError(f"No case of {name} has {wanted!r} in its name: {'; '.join(case.name for case in known)}.")
    for number, case in enumerate(cases):
        left = settings.budget - (time.monotonic() - start)
        share = replace(settings, budget=max(left, 0) / (len(cases) - number))
        record["cases"].append(measured(f"{name} {number + 1}/{len(cases)}: {case.name}", case, share))
    if settings.profile and name == "backbone":
        from bench.suites import profiled

        record["profile_case"], record["profile"] = cases[-1].name, profiled(settings)
    record["load_after"] = list(os.getloadavg())
    path = folder / f"{stem(name, settings)}.json"
    write_json(record, path)
    with replacing(path.with_suffix(".png")) as part:
        draw(record["cases"], f"{record['says']}\n{record['machine']['hardware']}", part)
    print(f"{name}: {path} and .png", flush=True)


def measured(title: str, case: Any, settings: Any) -> dict[str, Any]:
    """Measure a case behind a progress bar, print its ratios and return its record.

    Raises:
        RuntimeError: None of its peers could be measured.
    """
    from bench.measure import case_records
    from bench.tables import ratios
    from tqdm import tqdm

    total = len(case.peers) * (2 if case.exact else 1 + settings.warmup + settings.rounds)
    with tqdm(total=total, desc=title, unit="step", leave=False) as bar:

        def tick(label: str) -> None:
            bar.set_postfix_str(label, refresh=False)
            bar.update()

        (record,) = case_records(case, settings, tick)
    if not record["peers"]:
        raise RuntimeError(f"{title}: nothing could be measured: {record['skipped']}")
    print(f"{title}: {ratios(record)}", flush=True)
    for label, why in record["skipped"].items():
        print(f"  {label} left out: {why}", flush=True)
    return record


def said(words: list[str]) -> str:
    """Return the command line as a record keeps it: where the files went is no matter of the measurement."""
    if "--output" in words:
        at = words.index("--output")
        words = words[:at] + words[at + 2 :]
    return " ".join(["python tools/benchmark.py", *words])


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    args = parser().parse_args(argv)
    with readable_errors(args.traceback):
        if args.command == "table":
            from bench.report import PAGE, update_page
            from bench.suites import SUITES

            missing = update_page(SUITES)
            print(PAGE, f"(not measured: {', '.join(missing)})" if missing else "")
            return
        settings = settings_of(args)
        command = said(list(sys.argv[1:] if argv is None else argv))
        for name in selected(args.suite):
            run_suite(name, settings, args.output, command, args.case)


if __name__ == "__main__":
    main()
