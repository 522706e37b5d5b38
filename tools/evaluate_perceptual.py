#!/usr/bin/env python
"""`ndpp perceptual` from a checkout."""

import sys

from ndpp_dense.cli import main

if __name__ == "__main__":
    sys.exit(main(["perceptual", *sys.argv[1:]]))
