"""What the model zoo raises."""

from __future__ import annotations

__all__ = ["ZooError"]


class ZooError(ValueError):
    """A name, an index, a file or a transfer of the model zoo is not what it should be; the message says what to do."""
