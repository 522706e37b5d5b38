#!/usr/bin/env python
"""Measure what each step towards the fast path did: the training step of ResNet-50 as the code of its commit runs it.

    python tools/bench_history.py run
    python tools/bench_history.py table

Every commit is measured in a process of its own, where ND++ `fast`, as it was then, and batch norm take turns. `run`
writes docs/results/bench_history.json, `table` the table in docs/performance.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from records import ROOT, provenance, table

from ndpp_dense.cli.errors import readable_errors

RECORD = ROOT / "docs" / "results" / "bench_history.json"
PAGE = ROOT / "docs" / "performance.md"
BLOCK = r"(<!-- bench_history -->\n).*?(<!-- /bench_history -->)"
BATCH, SIZE, ROUNDS = 8, 224, 5


class Way(NamedTuple):
    """A step on the way.

    Attributes:
        commit: After it.
        what: Was done.
        predicted: The gain, as it was written down beforehand; empty if it was not.
    """

    commit: str
    what: str
    predicted: str


WAY = (
    Way("e421cb3", "at the beginning", ""),
    Way(
        "484e06d",
        "`W' mean` as `W (D mean)`, a matrix and a vector in place of an `einsum`; `W D` into strided blocks, without "
        "copies; scale and convolution differentiated as one, by `<dL/dx, x>`",
        "half of what a step costs beside moments and solver",
    ),
    Way(
        "de9cbca",
        "magnitudes summed by `abs().sum` in pieces that fit a cache; `vector_norm` adds one element after the other",
        "the time of one pass over memory",
    ),
    Way("4522d22", "sampled windows copied once, shifted and in the layout of the product", "half of the moments"),
    Way("c402b23", "Newton steps two at a time, 10 products for 12, in buffers", "a sixth of the solver"),
    Way("8ebff4a", "the smaller side of a layer scaled in the backward pass", ""),
    Way(
        "303b71d",
        "blocks of 32 channels (8 in larger kernels), three iterations",
        "half of moments and of `D w`, three quarters of the solver",
    ),
    Way("57521f4", "all magnitudes written to one buffer", ""),
    Way(
        "780d321",
        "1x1 convolutions of large maps as products of matrices, sample by sample: `alpha A B + beta C` takes scale, "
        "bias and the gradient through the scale for nothing. Batch norm's network runs torch's convolution there, so "
        "this ratio and those below hold both",
        "half of what local scale costs",
    ),
    Way(
        "84a665a",
        "averages moved and D solved a few blocks at a time, while they are near",
        "",
    ),
    Way(
        "9ffe122",
        "outputs of ReLU are their own magnitudes, with derivative 1; strided 1x1 convolutions as those of the "
        "positions they see",
        "",
    ),
    Way(
        "17fa58e",
        "signs looked for before magnitudes are written; outputs scaled and shifted in one pass",
        "",
    ),
    Way(
        "792ca55",
        "the output of large samples scaled; the matrix read in place in Newton's first step",
        "",
    ),
)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table", "measure"), help="measure: this process's ndpp_dense alone")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1, help="of torch")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


def measure(threads: int) -> dict[str, Any]:
    """Return ratios of ND++'s training step to batch norm's, of the `ndpp_dense` that this process imports."""
    import torch
    from bench.allocator import keep_freed_memory
    from bench.case import Settings, training_step
    from bench.timing import interleave, seconds, summarise

    from ndpp_dense import WhiteningConfig, create_backbone

    torch.set_num_threads(threads)
    keep_freed_memory()
    settings, steps = Settings(threads=threads), {}
    for label, ndpp in (("BN", None), ("ND++ fast", WhiteningConfig.fast("imagenet"))):
        torch.manual_seed(0)
        x = torch.randn(BATCH, 3, SIZE, SIZE)
        steps[label] = training_step(create_backbone("resnet50", ndpp=ndpp), x, settings)
    return summarise(interleave(steps, seconds, ROUNDS, 2, float("inf")))


def run(threads: int) -> None:
    """Measure every commit of the way in a checkout of its own, and write the record.

    Raises:
        RuntimeError: A commit cannot be checked out or measured.
    """
    from bench.report import write_json
    from tqdm import tqdm

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for way in tqdm(WAY, desc="commits", unit="commit"):
            there = Path(folder) / way.commit
            _call(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(there), way.commit])
            try:
                words = [sys.executable, __file__, "measure", "--threads", str(threads)]
                said = _call(words, {**os.environ, "PYTHONPATH": str(there), "OMP_NUM_THREADS": str(threads)})
            finally:
                _call(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(there)])
            found.append({"commit": way.commit, "peers": json.loads(said.splitlines()[-1])})
            tqdm.write(f"{way.commit}: {found[-1]['peers']['ND++ fast']['ratio']:.3f}  {way.what}")
    record = {"machine": {**provenance(threads), "load": os.getloadavg()[0]}, "steps": found}
    write_json(record, RECORD)


def _call(words: list[str], environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        why = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"`{' '.join(words)}` failed: {why}. A shallow clone lacks commits: git fetch --unshallow.")
    return result.stdout


def write_table() -> None:
    """Write the table between the page's markers."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    outcomes = {step["commit"]: step["peers"]["ND++ fast"] for step in record["steps"]}
    rows = [
        [
            way.commit,
            way.what,
            way.predicted or "–",
            "{:.3f} ({:.3f}-{:.3f})".format(outcomes[way.commit]["ratio"], *outcomes[way.commit]["ratio_quartiles"]),
        ]
        for way in WAY
    ]
    made = record["machine"]
    said = f"`python tools/bench_history.py run`\n\n{made['hardware']}; load average {made['load']:.1f} after; rounds: "
    head = ["commit", "what was done", "predicted gain", "`fast` over BN after it (quartiles)"]
    body = f"{said}{ROUNDS} of each commit.\n\n{table(head, rows)}\n"
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(BLOCK, lambda m: m[1] + body + m[2], text, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    """Parse the command line and do what it says."""
    args = parser().parse_args()
    with readable_errors(args.traceback):
        if args.command == "measure":
            print(json.dumps(measure(args.threads)))
        elif args.command == "run":
            run(args.threads)
        else:
            write_table()


if __name__ == "__main__":
    main()
