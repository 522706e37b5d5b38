"""The command ``ndpp``."""

from ndpp_dense.cli.main import main

__all__ = ["main"]
