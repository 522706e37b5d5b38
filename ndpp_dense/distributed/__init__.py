"""Many processes: starting and joining them, stopping together, and what they must have in common."""

from ndpp_dense.distributed.launch import LaunchOptions, launch

__all__ = ["LaunchOptions", "launch"]
