"""What a training step launches on a device: operations, by part, counted on tensors without values.

A device is told what to do operation by operation, and at small batches that takes longer than to do it. Tensors on
``meta`` go the way of a device's: nobody may look at their values. So no GPU is needed, and a step takes no time.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.case import Case, Settings, Step, training_step
from bench.peers import IterNorm2d, replace_norms
from bench.profile import PARTS, wrapped_parts
from ndpp_dense import WhiteningConfig, convert_to_ndpp, create_backbone

REST = "rest"
SHOWN = (*(part for part in PARTS if part != "collective"), REST)  # one process sends nothing
FIRST_STEPS = 1  # which may make what later ones only read


def converted(model: nn.Module, preset: str = "fast", **fields: Any) -> nn.Module:
    """Converts a model, all of whose layers update together."""
    config = WhiteningConfig.paper("imagenet") if preset == "paper" else WhiteningConfig.fast("imagenet")
    convert_to_ndpp(model, config.override(fields))
    return model


NORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "BN": lambda model: model,
    "SyncBN": nn.SyncBatchNorm.convert_sync_batchnorm,
    "GN": partial(replace_norms, make=partial(nn.GroupNorm, 32)),
    "IterNorm": partial(replace_norms, make=IterNorm2d),
}
WHITENED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "ND++ fast": converted,
    "ND++ fast, stale": partial(converted, schedule="stale"),
    "ND++ fast, every=4, between updates": partial(converted, schedule="every=4"),
    "ND++ paper": partial(converted, preset="paper"),
}
METHODS = {**NORMS, **WHITENED}


def launch_cases(settings: Settings) -> list[Case]:
    """Operations of a step of two networks, and of ResNet-50 by part; sizes do not matter."""

    def case(name: str, labels: Iterable[str], network: str, part: str = "") -> Case:
        return Case(
            name,
            {label: partial(_counting, network, label, part) for label in labels},
            unit="operations",
            measure=lambda step: float(step()),  # pyright: ignore[reportArgumentType]
            exact=True,
        )

    whole = [case(network, METHODS, network) for network in NETWORKS]
    return whole + [case(part, WHITENED, "ResNet-50", part) for part in SHOWN]


def _counting(network: str, label: str, part: str) -> Step:
    return lambda: counted(network, label)[part] if part else counted(network, label).total()


@lru_cache(maxsize=64)
def counted(network: str, label: str) -> Counter[str]:
    """Operations of a training step by part of the layers, backward ones counted to the part of their forward.

    Args:
        network: One of ``NETWORKS``.
        label: One of ``METHODS``.
    """
    with torch.device("meta"):
        model = METHODS[label](NETWORKS[network]()).train()
        step = training_step(model, torch.empty(8, 3, 224, 224), Settings())
    for _ in range(FIRST_STEPS):
        step()
    with CountOperations() as seen, wrapped_parts(seen.marked):
        step()
    return seen.number


class _Output(nn.Module):
    """Of torchvision's networks for segmentation, which give several in a dictionary."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)["out"]


def _deeplab() -> nn.Module:
    from torchvision.models.segmentation import deeplabv3_resnet50

    return _Output(deeplabv3_resnet50(weights=None, weights_backbone=None))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-50": partial(create_backbone, "resnet50"),
    "DeepLabv3 R50": _deeplab,
}


class CountOperations(TorchDispatchMode):
    """Counts operations that compute, by part; those that make a view or empty memory compute nothing.

    Attributes:
        number: Of operations, by part.
        names: Of operations, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number: Counter[str] = Counter()
        self.names: Counter[str] = Counter()
        self._part = REST
        self._part_of_node: dict[int, str] = {}  # by its number in the order of the graph

    def marked(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, whose operations are counted to the part."""

        def runs(*args: Any, **kwargs: Any) -> Any:
            before, first = self._part, _next_node()
            self._part = part
            try:
                return call(*args, **kwargs)
            finally:
                self._part = before
                for node in range(first, _next_node()):
                    self._part_of_node.setdefault(node, part)

        return runs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (func.is_view or "empty" in func.name() or func.name() == "aten::_unsafe_view"):
            node = torch._C._current_autograd_node()
            part = self._part if node is None else self._part_of_node.get(node._sequence_nr(), REST)
            self.number[part] += 1
            self.names[func.name().removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def _next_node() -> int:
    """The number that autograd gives to the next node of the graph."""
    return torch.autograd._get_sequence_nr()  # pyright: ignore[reportPrivateImportUsage]
