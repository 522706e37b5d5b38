#!/usr/bin/env python
"""`ndpp shift` from a checkout."""

import sys

from ndpp_dense.cli import main

if __name__ == "__main__":
    sys.exit(main(["shift", *sys.argv[1:]]))
