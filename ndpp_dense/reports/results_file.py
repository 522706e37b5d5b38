"""The final results of a run as a JSON file for programs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from ndpp_dense.atomic_file import replacing

__all__ = ["write_results"]


def write_results(results: Mapping[str, Any], out_json: str | os.PathLike[str]) -> None:
    """Writes evaluation results as JSON, whole or not at all.

    Args:
        results: mappings of any depth that end in numbers, such as `{"segm": {"AP": ..., "AP50": ...}}`; what is not
            finite becomes null.
        out_json: file to write; its folder is created if absent.
    """
    with replacing(out_json) as path:
        path.write_text(json.dumps(_plain(results), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None
