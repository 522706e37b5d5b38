#!/usr/bin/env python
"""Compare methods on real images, at the same data and budget.

    python tools/study.py imagenette run --data TAR --condition "batch 32" --method bn fast --seed 1 2
    python tools/study.py nuclei time --data FOLDER
    python tools/study.py camvid table
    python tools/study.py perceptual run --data TAR

`run` trains each combination and keeps one JSON file a run in docs/results/<study>/; what is there already is left.
`time` measures the training step of all methods in one process, interleaved. `table` writes docs/results/<study>.md and
.png from these files. With `--note WORDS` a record says what was special about its run.
"""

import argparse
from importlib import import_module

from studies.engine import add_commands, obey

STUDIES = ("calibration", "camvid", "imagenette", "nuclei", "pooling")
OWN_COMMANDS = ("perceptual",)  # studies that train nothing at several learning rates


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = parser.add_subparsers(dest="study", required=True)
    studies = {name: import_module(f"studies.{name}").STUDY for name in STUDIES}
    for name, study in studies.items():
        add_commands(names.add_parser(name, help=study.text.splitlines()[0].lstrip("# ")), study)
    others = {name: import_module(f"studies.{name}") for name in OWN_COMMANDS}
    for name, module in others.items():
        module.add_commands(names.add_parser(name, help=str(module.__doc__).splitlines()[0]))
    args = parser.parse_args(argv)
    if args.study in others:
        others[args.study].obey(args)
    else:
        obey(studies[args.study], args)


if __name__ == "__main__":
    main()
