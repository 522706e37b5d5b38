"""Weights that ``init_cfg`` names: a network with ND++ layers takes a checkpoint whose ND++ layers are whole, or none.

MMEngine loads whatever fits and logs the rest. From the checkpoint of a network with batch norm the filters would fit
and the statistics not: a network that is half pretrained.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mmengine.logging import MMLogger
from mmengine.model import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ndpp_dense.layers.base import nd_layers

__all__ = ["NDPPPretrainedInit", "entries_below"]


@WEIGHT_INITIALIZERS.register_module(name="Pretrained", force=True)
class NDPPPretrainedInit(PretrainedInit):
    """``init_cfg=dict(type="Pretrained", checkpoint=FILE, prefix="backbone.")``, as MMEngine has it, with a check.

    Every ND++ layer of the module that the file knows must be there with its weight, bias and running statistics, in
    the shapes that the module has. Other entries may be missing or left over: MMEngine logs them. Modules without
    ND++ layers load as ever.
    """

    def __call__(self, module: nn.Module) -> None:
        """Checks the file against the module, then loads it.

        Raises:
            ValueError: The file does not fit; names the layers and what they lack.
        """
        if any(nd_layers(module)):
            entries = CheckpointLoader.load_checkpoint(self.checkpoint, map_location="cpu")
            entries = entries.get("state_dict", entries)
            found = entries_below(entries, self.prefix)
            fault = _fault(module, found, entries)
            if fault:
                where = f" below {self.prefix!r}" if self.prefix else ""
                raise ValueError(f"init_cfg: {self.checkpoint}{where} does not fit {type(module).__name__}: {fault}")
            self._say(type(module).__name__, module.state_dict(), found)
        super().__call__(module)

    def _say(self, kind: str, state: Iterable[str], found: Collection[str]) -> None:
        wanted = [name for name in state if not name.endswith(".num_batches_tracked")]  # which nothing needs
        unmatched = [name for name in wanted if name not in found]
        first = f", first {unmatched[0]}" if unmatched else ""
        message = "init_cfg: %s takes %d of its %d weights from %s, %d unmatched%s"
        loaded = len(wanted) - len(unmatched)
        MMLogger.get_current_instance().info(message, kind, loaded, len(wanted), self.checkpoint, len(unmatched), first)


def entries_below(entries: Mapping[str, Any], prefix: str | None) -> dict[str, Any]:
    """Entries of a checkpoint by the names that a module has for them.

    Args:
        entries: Weights by name.
        prefix: Of the module's in the file, with or without its dot; None where they are the module's alone.
    """
    if prefix is None:
        return {name.removeprefix("module."): value for name, value in entries.items()}
    start = f"{prefix.removesuffix('.')}."
    return {name.removeprefix(start): value for name, value in entries.items() if name.startswith(start)}


def _fault(module: nn.Module, found: Mapping[str, Any], entries: Mapping[str, Any]) -> str | None:
    """What is wrong with the entries, or None."""
    layers = {name: _values(layer, f"{name}." if name else "") for name, layer in nd_layers(module)}
    known = {layer: wanted for layer, wanted in layers.items() if wanted.keys() & found.keys()}
    if not known:
        return f"it has none of the {len(layers)} ND++ layers. {_where(next(iter(layers)), entries)}"
    missing = {layer: sorted(wanted.keys() - found.keys()) for layer, wanted in known.items()}
    incomplete = [layer for layer, names in missing.items() if names]
    if incomplete:
        first = ", ".join(missing[incomplete[0]])
        return (
            f"{len(incomplete)} of {len(known)} ND++ layers lack entries, the first: {first}. "
            f"{_norms(found.keys() - module.state_dict().keys())}"
            "Give the checkpoint of a network with ND++ layers, or train from scratch (without init_cfg)."
        )
    wrong = [
        f"{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for wanted in known.values()
        for name, tensor in wanted.items()
        if found[name].shape != tensor.shape
    ]
    if wrong:
        return f"{len(wrong)} entries have another shape, the first: {wrong[0]}. Was it trained with other block sizes?"
    return None


def _values(layer: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Weight, bias and statistics; not where the layer is in its schedule, which a file may lack."""
    return {name: value for name, value in layer.state_dict(prefix=prefix).items() if value.is_floating_point()}


def _norms(left_over: Iterable[str]) -> str:
    """Says that the file is of a network with batch norm, if it is."""
    norms = sorted(name.removesuffix(".running_var") for name in left_over if name.endswith(".running_var"))
    return f"It has {len(norms)} batch norms instead, the first {norms[0]!r}. " if norms else ""


def _where(layer: str, entries: Mapping[str, Any]) -> str:
    """Says below which prefix the file has the layer, or what it has."""
    prefixes = {name.split(f"{layer}.")[0] for name in entries if f".{layer}." in name}
    if prefixes:
        return f"Set prefix={min(prefixes, key=len)!r}: there it has {layer!r}."
    return f"Its names begin with {', '.join(sorted({name.split('.')[0] for name in entries})[:10])}."
