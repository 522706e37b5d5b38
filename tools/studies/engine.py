"""What comparisons share: runs, records, step times and the command line."""

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from records import ROOT, provenance

DIVERGED = "training diverged"  # what every training tool says when it ends because the loss is not finite


@dataclass(frozen=True)
class Column:
    """A column of the table: a metric at a share of the budget.

    Attributes:
        label: Heading.
        metric: Its name in the records.
        share: Of the iterations, in (0, 1]; 1 is the end.
    """

    label: str
    metric: str
    share: float = 1.0


@dataclass(frozen=True)
class Study:
    """What is compared, and how it is shown.

    Attributes:
        name: Of the folder of records and of the page.
        text: Head of the page, with ``{hardware}`` and ``{commits}``.
        methods: Label of each method by the name it has on the command line; the first is the one that the step times
            of the others are divided by.
        command: From method, settings, learning rate, seed, data and output folder to the words that train.
        read: From the output folder to evaluations (metrics by iteration) and losses (pairs of iteration and value).
        steps: From data and method to a function that does one training step.
        columns: Of the table; the last one decides which learning rate is a method's best.
        details: Metrics at the end that get a table of their own, such as the classes.
        prepare: From method, seed, data and output folder: makes what the command needs.
        rates: Default learning rates.
        unit: Of the budget.
        conditions: Settings by name of the condition under which methods are compared, such as the batch size; the
            page has a table and a row of plots for each.
    """

    name: str
    text: str
    methods: Mapping[str, str]
    command: Callable[[str, list[str], float, int, Path, Path], list[str]]
    read: Callable[[Path], tuple[dict[int, dict[str, float]], list[list[float]]]]
    steps: Callable[[Path, str], Callable[[], None]]
    columns: tuple[Column, ...]
    details: tuple[str, ...] = ()
    prepare: Callable[[str, int, Path, Path], None] | None = None
    rates: tuple[float, ...] = (0.05,)
    unit: str = "iteration"
    conditions: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"": ()})

    @property
    def folder(self) -> Path:
        """Where the records are."""
        return ROOT / "docs" / "results" / self.name


def short(setting: str) -> str:
    """Return a setting without the path of its key, fit for a file's name."""
    key, sign, value = setting.partition("=")
    last = key.rsplit(".", 1)[-1] if key.replace(".", "_").isidentifier() else key
    return f"{last}{sign}{value}".lower().replace("/", "-")


def train(study: Study, condition: str, method: str, rate: float, seed: int, args: argparse.Namespace) -> None:
    """Train one combination and keep its record; one that is there already is left."""
    tag = "".join(f"_{short(word)}" for word in args.set)
    where = f"_{condition.replace(' ', '')}" if condition else ""
    name = f"{method}{where}{tag}_lr{rate:g}_seed{seed}"
    record = study.folder / f"{name}.json"
    if record.exists():
        print(f"{name}: there already")
        return
    output = ROOT / "output" / f"study_{study.name}" / name
    words = study.command(method, [*study.conditions[condition], *args.set], rate, seed, args.data, output)
    print(f"{name}: {' '.join(words)}", flush=True)
    shutil.rmtree(output, ignore_errors=True)  # of a run that was stopped: two runs' records would be read as one
    output.mkdir(parents=True)
    made_at = provenance()  # as the code is now, whatever is edited while it runs
    if study.prepare:
        study.prepare(method, seed, args.data, output)
    with open(output / "console.txt", "w") as log:
        done = subprocess.run([sys.executable, *words], stdout=log, stderr=subprocess.STDOUT, check=False, cwd=ROOT)
    evaluations, losses = study.read(output)
    diverged = done.returncode != 0 and DIVERGED in (output / "console.txt").read_text(errors="replace")
    if done.returncode and not diverged:  # stopped, killed or broken: what it would have come to is not known
        raise SystemExit(
            f"{name} ended with exit code {done.returncode} after {len(losses)} {study.unit}(s), and nothing is "
            f"recorded: see {output / 'console.txt'}, then run the same command again."
        )
    result = {"method": method, "lr": rate, "seed": seed, "overrides": args.set, "diverged": diverged}
    result |= {"condition": condition} if condition else {}
    result |= {"evaluations": evaluations, "loss": losses, **made_at, **({"note": args.note} if args.note else {})}
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{name}: {'diverged' if diverged else evaluations}", flush=True)


def measure(study: Study, args: argparse.Namespace) -> None:
    """Time training steps of all methods, one after the other in turn."""
    import torch

    torch.set_num_threads(1)
    made_at = provenance()
    steps = {method: study.steps(args.data, method) for method in args.method}
    seconds: dict[str, list[float]] = {method: [] for method in steps}
    for _, (method, step) in itertools.product(range(args.steps + 1), steps.items()):
        start = time.perf_counter()
        step()
        seconds[method].append(time.perf_counter() - start)
    kept = {method: values[1:] for method, values in seconds.items()}  # the first one warms up
    study.folder.mkdir(parents=True, exist_ok=True)
    (study.folder / "step_time.json").write_text(json.dumps({"seconds": kept, **made_at}, indent=1) + "\n")
    print({method: round(statistics.median(values), 3) for method, values in kept.items()})


def combinations(args: argparse.Namespace) -> Iterator[tuple[int, str, str, float]]:
    """Return seeds, conditions, methods and rates, the first seed of everything first."""
    return itertools.product(args.seed, args.condition, args.method, args.lr)


def add_commands(parser: argparse.ArgumentParser, study: Study) -> None:
    """Declare the commands of a study."""
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("run", help="train")
    timing = commands.add_parser("time", help="measure the training step")
    commands.add_parser("table", help="write the page and the figure")
    for command in (training, timing):
        command.add_argument("--data", type=lambda word: Path(word).resolve(), required=True, metavar="PATH")
        command.add_argument("--method", nargs="+", choices=study.methods, default=list(study.methods))
    training.add_argument("--lr", nargs="+", type=float, default=list(study.rates))
    training.add_argument("--seed", nargs="+", type=int, default=[1, 2])
    training.add_argument("--condition", nargs="+", choices=study.conditions, default=list(study.conditions))
    training.add_argument("--set", nargs="*", default=[], metavar="SETTING", help="further overrides, for trials")
    training.add_argument("--note", metavar="WORDS", help="kept in the record")
    timing.add_argument("--steps", type=int, default=7)


def obey(study: Study, args: argparse.Namespace) -> None:
    """Do what the command line says."""
    if args.command == "table":
        from studies.page import write

        write(study)
    elif args.command == "time":
        measure(study, args)
    else:
        for seed, condition, method, rate in combinations(args):
            train(study, condition, method, rate, seed, args)
