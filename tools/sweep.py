#!/usr/bin/env python
"""Convert the models of other libraries, and prove of each that nothing was lost.

    python tools/sweep.py run                     # every suite: two hours on one core
    python tools/sweep.py run --suite timm --only resnet --again
    python tools/sweep.py table

`run` writes docs/results/sweep.json, model by model; what is there already is left, unless `--again` asks for it.
`table` writes docs/conversion.md from it. Nothing is downloaded: all weights are random. A suite whose library is not
installed is passed over, by name.
"""

import argparse
import json
import warnings
from typing import Any

import torch
from records import ROOT, provenance
from sweeps.check import check
from sweeps.page import write
from sweeps.suites import SUITES

RECORD = ROOT / "docs" / "results" / "sweep.json"


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = parser.add_subparsers(dest="command", required=True)
    run_parser = names.add_parser("run", help="convert and check the models")
    run_parser.add_argument("--suite", nargs="+", choices=SUITES, default=list(SUITES))
    run_parser.add_argument("--again", action="store_true", help="measure what is recorded already, too")
    run_parser.add_argument("--only", default="", help="models whose name holds this word")
    names.add_parser("table", help="write the page")
    args = parser.parse_args(argv)
    if args.command == "run":
        run(args.suite, args.only, args.again)
    else:
        write(json.loads(RECORD.read_text()))


def run(suites: list[str], only: str, again: bool) -> None:
    """Check the models and record each."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    origin = provenance()
    records = json.loads(RECORD.read_text())["models"] if RECORD.exists() else []
    for suite in suites:
        try:
            for case in SUITES[suite]():
                known = [r for r in records if (r["suite"], r["name"]) == (case.suite, case.name)]
                if only not in case.name or (known and not again):
                    continue
                found = check(case) | {"commit": origin["commit"]}
                records = [r for r in records if r not in known] + [found]
                print(_line(found), flush=True)
                RECORD.parent.mkdir(parents=True, exist_ok=True)
                RECORD.write_text(json.dumps({"hardware": origin["hardware"], "models": records}, indent=1) + "\n")
        except ImportError as error:
            print(f"{suite}: not installed ({error})", flush=True)


def _line(record: dict[str, Any]) -> str:
    counts = " ".join(f"{number} {action}" for action, number in record.get("counts", {}).items())
    return f"{record['status']:8} {record['suite']} {record['name']} {record['seconds']}s {counts} {record['message']}"


if __name__ == "__main__":
    main()
