"""Launching with what Detectron2 wants to know besides: the ranks on the same machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm

from ndpp_dense import distributed
from ndpp_dense.distributed import LaunchOptions

__all__ = ["LaunchOptions", "launch"]


def launch(main: Callable[..., Any], options: LaunchOptions, args: tuple = (), **calls: Any) -> Any:
    """:func:`ndpp_dense.distributed.launch` with Detectron2's groups of ranks on a machine."""
    return distributed.launch(main, options, args, joined=_group_machines, left=_forget_groups, **calls)


def _group_machines(nodes: list[int], own: int) -> None:
    """Every rank must take part in making every group."""
    for node in sorted(set(nodes)):
        group = dist.new_group([rank for rank, other in enumerate(nodes) if other == node])
        if node == own:
            comm._LOCAL_PROCESS_GROUP = group


def _forget_groups() -> None:
    """Detectron2 keeps both for good, and with them their threads."""
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
