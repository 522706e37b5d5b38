"""Which spatial operation each bottleneck of a ResNet has, by its position (PfLayer, Tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any

__all__ = ["STAGE_WORDS", "BlockSequence", "stage_pattern"]

NAMED_PATTERNS = ("hybrid", "deform_max", "deform_avg", "max", "E/B")
# The other rows of PfLayer, Table 2; any word of as many letters as there are stages is understood.
STAGE_WORDS = ("BBBB", "EBBB", "EEBB", "EEEB", "EEEE", "BBBE", "BBEE", "BEEE")


def stage_pattern(pattern: str, depths: Sequence[int]) -> list[list[str]]:
    """The operation in every block: ``"conv"``, ``"max"``, ``"avg_conv"``, ``"deform_max"`` or ``"deform_avg"``.

    Args:
        pattern: One letter a stage, B for regular bottlenecks (3x3 convolution) and E for efficient ones (max-pool), as
            in ``"EEBB"``; ``"E/B"``, the two in turn through the whole network, E first; ``"max"``, E everywhere;
            ``"hybrid"``, E but for the first block of every stage after the first, which averages before its
            convolution; ``"deform_max"`` or ``"deform_avg"``, a hybrid whose max-pools are deformable.
        depths: Blocks of each stage.

    Returns:
        One list a stage with one name a block.

    Raises:
        ValueError: Unknown pattern (the nearest is named), or not a letter a stage.
    """
    if pattern in ("hybrid", "deform_max", "deform_avg"):
        efficient = "max" if pattern == "hybrid" else pattern
        first = [efficient] + ["avg_conv"] * (len(depths) - 1)
        return [[kind] + [efficient] * (depth - 1) for kind, depth in zip(first, depths, strict=True)]
    if pattern == "E/B":
        kinds = [("max", "conv")[block % 2] for block in range(sum(depths))]
        starts = [sum(depths[:stage]) for stage in range(len(depths))]
        return [kinds[start : start + depth] for start, depth in zip(starts, depths, strict=True)]
    letters = "E" * len(depths) if pattern == "max" else pattern
    if not letters or set(letters) - {"B", "E"} or len(letters) != len(depths):
        raise ValueError(_unknown(pattern, len(depths)))
    return [[{"B": "conv", "E": "max"}[letter]] * depth for letter, depth in zip(letters, depths, strict=True)]


def _unknown(pattern: str, stages: int) -> str:
    if pattern and not set(pattern) - {"B", "E"}:
        return f"Pattern {pattern!r} has {len(pattern)} letters for {stages} stages: give one a stage."
    choices = {choice.lower(): choice for choice in (*NAMED_PATTERNS, *STAGE_WORDS)}
    near = get_close_matches(str(pattern).lower(), list(choices), n=1, cutoff=0.4)
    hint = f" Did you mean {choices[near[0]]!r}?" if near else ""
    return (
        f"Unknown stage pattern {pattern!r}.{hint} Choices: {', '.join(map(repr, NAMED_PATTERNS))}, or a letter B or E "
        "for each stage, such as 'EEBB'."
    )


class BlockSequence:
    """Stands in for the block class where a framework builds a stage without telling its blocks their positions.

    Args:
        block: The class; takes ``pooling`` beside what the framework passes.
        kinds: Operations of the blocks, in the order in which they are built.
    """

    def __init__(self, block: Callable[..., Any], kinds: Iterable[str]) -> None:
        self.expansion: int = block.expansion  # type: ignore[attr-defined]
        self._block = block
        self._kinds = list(kinds)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The next block."""
        if not self._kinds:
            raise RuntimeError("More blocks were built than the stage pattern has.")
        return self._block(*args, pooling=self._kinds.pop(0), **kwargs)
