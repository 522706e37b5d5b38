#!/usr/bin/env python
"""`ndpp install-detectron2` from a checkout, whether the package is installed or not."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from ndpp_dense.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["install-detectron2", *sys.argv[1:]]))
