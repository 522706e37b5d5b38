#!/usr/bin/env python
"""`ndpp pretrain` from a checkout, for torchrun and SLURM."""

import sys

from ndpp_dense.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
