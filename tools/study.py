#!/usr/bin/env python
"""Compare methods on real images, at the same data and budget.

    python tools/study.py imagenette run --data TAR --condition "batch 32" --method bn fast --seed 1 2
    python tools/study.py nuclei time --data FOLDER
    python tools/study.py camvid table
    python tools/study.py perceptual run --data TAR
    python tools/study.py shift run --data TAR --method bn vgg_gap
    python tools/study.py front table

`run` trains each combination and keeps one JSON file a run in docs/results/<study>/; what is there already is left.
`time` measures the training step of all methods in one process, interleaved. `table` writes docs/results/<study>.md and
.png from these files, `front table` the table of README.md and docs/index.md. With `--note WORDS` a record says what
was special about its run.
"""

import argparse
from importlib import import_module

from studies.engine import add_commands, obey

STUDIES = (
    "calibration",
    "camvid",
    "finetune",
    "front",
    "imagenette",
    "nuclei",
    "perceptual",
    "pooling",
    "shift",
    "whitening",
)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = parser.add_subparsers(dest="study", required=True)
    modules = {name: import_module(f"studies.{name}") for name in STUDIES}
    for name, module in modules.items():
        own = names.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        if hasattr(module, "STUDY"):
            add_commands(own, module.STUDY)
        else:
            module.add_commands(own)
    args = parser.parse_args(argv)
    module = modules[args.study]
    if hasattr(module, "STUDY"):
        obey(module.STUDY, args)
    else:
        module.obey(args)


if __name__ == "__main__":
    main()
