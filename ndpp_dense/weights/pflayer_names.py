"""Names in the checkpoints that the authors of PfLayer published, where they are not torchvision's or timm's.

ViT-S-max has timm's names; ResNet-50, R50-max, R50-hybrid and PiT-S-max have names of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

__all__ = ["pflayer_renaming"]

_BLOCK = r"^(layer\d\.\d+\.)"
# Each pair of convolution and norm is a sequence there, whose entry 0 and 1 they are.
_PAIRS = (
    (re.compile(r"^()conv1\.([01])\."), ("conv1.", "bn1.")),
    (re.compile(_BLOCK + r"reduction_block\.([01])\."), ("conv1.", "bn1.")),
    (re.compile(_BLOCK + r"expansion_block\.([01])\."), ("conv3.", "bn3.")),
    (re.compile(_BLOCK + r"conv_block\.1\.([01])\."), ("conv2.conv.", "bn2.")),  # behind an average pool
    (re.compile(_BLOCK + r"conv_block\.([01])\."), ("conv2.", "bn2.")),
)
_PIT_POOL = re.compile(r"^pools\.(\d+)\.")


def pflayer_renaming(names: Iterable[str]) -> Callable[[str], str] | None:
    """What makes names of ``create_backbone`` from those of a published checkpoint.

    Args:
        names: All names in the file.

    Returns:
        The function, or None where the names are not PfLayer's own.
    """
    names = list(names)
    if any(".reduction_block." in name for name in names):
        return _resnet_name
    if any(_PIT_POOL.match(name) for name in names):
        return lambda name: _PIT_POOL.sub(lambda found: f"transformers.{int(found[1]) + 1}.pool.", name)
    return None


def _resnet_name(name: str) -> str:
    for pattern, layers in _PAIRS:
        found = pattern.match(name)
        if found:
            return found[1] + layers[int(found[2])] + name[found.end() :]
    return name
