#!/usr/bin/env python
"""`ndpp export` from a checkout."""

import sys

from ndpp_dense.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
