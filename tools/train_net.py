#!/usr/bin/env python
"""`ndpp train-det` under the name that Detectron2 gives it, for torchrun and SLURM."""

import sys

from ndpp_dense.cli import main

if __name__ == "__main__":
    sys.exit(main(["train-det", *sys.argv[1:]]))
