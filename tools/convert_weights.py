#!/usr/bin/env python
"""`ndpp convert` from a checkout."""

import sys

from ndpp_dense.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
