"""The surgery check: with D = I and no local scale a converted model is the original without its dropped norms."""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ndpp_dense import ConversionReport, WhiteningConfig, convert_to_ndpp, fold_ndpp, freeze_stats, nd_layers
from ndpp_dense.conversion.module_surgery import replace_modules
from sweeps.numbers import Seen, all_numbers, difference, numbers, tensors

__all__ = ["Case", "check"]

PLAIN = WhiteningConfig(local_scale="none")  # D = I until a first training step
TOLERANCES = {torch.float32: 1e-2, torch.float64: 1e-6}  # relative to the root mean square
LARGE = 120e6  # parameters beyond which float32 must do
_SEED = 2022


class AbsentError(Exception):
    """The original does not build or run here: it needs what is not installed, or a compiled operation."""


@dataclass(frozen=True)
class Case:
    """A model of another library.

    Attributes:
        suite: The library.
        name: As the library calls it.
        make: Builds it with random weights.
        run: Runs it on one input; called with the model, returns its output.
    """

    suite: str
    name: str
    make: Callable[[], nn.Module]
    run: Callable[[nn.Module], Any]


class _Copy(nn.Module):
    """What a norm that passes its input on is: a new tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def check(case: Case) -> dict[str, Any]:
    """Return the record of one model: its status, what was converted and left, and the first difference if any."""
    start = time.perf_counter()
    record: dict[str, Any] = {"suite": case.suite, "name": case.name}
    try:
        found = _compare(case, torch.float32)
        if found["status"] == "wrong" or not found.pop("finite", True):  # rounding or overflow, or the truth?
            found = _compare(case, torch.float64)
            found.pop("finite", None)
        record |= found
    except AbsentError as absent:
        record |= {"status": "absent", "message": str(absent)}
    finally:
        gc.collect()
    return record | {"seconds": round(time.perf_counter() - start, 1)}


def _compare(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    model = _built(case, dtype)
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if p.dim() > 1 and p.numel() < LARGE}
    modes = {name: module.training for name, module in model.named_modules()}
    try:
        report = convert_to_ndpp(model, PLAIN)
    except ValueError as error:
        return {"status": "refused", "message": str(error).splitlines()[0]}
    for name, parameter in model.named_parameters():
        if name in kept:  # layers that start at zero in the place of a norm would hide everything
            parameter.data.copy_(kept[name])
    del kept
    record = _summary(report)
    names = [*report.converted, *report.left]
    try:
        found = _observed(model, names, case.run)
        folded = _observed(fold_ndpp(model), names, case.run)
    except Exception as error:  # noqa: BLE001  (whatever it is, the original did not raise it)
        return record | {"status": "wrong", "message": f"{type(error).__name__}: {error}"[:300]}
    idle = [name for name, _ in nd_layers(model) if not any(name == seen for seen, *_ in found["layers"])]
    original = _without_norms(_built(case, dtype, proven=True), report)
    expected = _observed(original, names, case.run)
    record["finite"] = all(abs(size) < float("inf") for *_, size in expected["layers"] + expected["outputs"])
    tolerance = TOLERANCES[dtype]
    wrong = difference(expected, found, tolerance) or difference(expected, folded, tolerance, "folded: ")
    if wrong:
        return record | {"status": "wrong", "message": wrong}
    for module in (model, original):
        for name, child in module.named_modules():
            child.training = modes.get(name, True)
    freeze_stats(model)
    training = _trained(model, names, case.run)
    wrong = difference(_trained(original, names, case.run), training, tolerance, "training: ")
    if wrong:
        return record | {"status": "wrong", "message": wrong}
    idle = sorted(set(idle) - {name for name, *_ in training.get("layers", [])})
    if idle:
        return record | {"status": "idle", "message": f"{len(idle)} converted layers do not run: {', '.join(idle[:4])}"}
    return record | {"status": "right", "message": ""}


def _built(case: Case, dtype: torch.dtype, proven: bool = False) -> nn.Module:
    """The original with random biases, scales and statistics, in evaluation mode, proven to run."""
    torch.manual_seed(_SEED)
    try:
        model = case.make()
        model = model.float() if sum(p.numel() for p in model.parameters()) > LARGE else model.to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() <= 1 or not parameter.any():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.1)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0)
            if not proven:
                case.run(model.eval())
    except Exception as error:  # noqa: BLE001
        raise AbsentError(f"{type(error).__name__}: {error}"[:200]) from error
    return model.eval()


def _summary(report: ConversionReport) -> dict[str, Any]:
    counts = Counter(record.action for record in report.records)
    left = Counter(record.reason for record in report.records if record.action == "left")
    kept = Counter(record.reason for record in report.records if record.action == "kept")
    return {"counts": dict(counts), "left": dict(left.most_common(8)), "kept": dict(kept.most_common(8))}


def _without_norms(model: nn.Module, report: ConversionReport) -> nn.Module:
    """The original model with the norms that conversion dropped passed through."""
    norms = {name: model.get_submodule(name) for name in report.dropped_norms}
    stand_ins: dict[nn.Module, nn.Module] = {}
    for norm in norms.values():
        after = [m for m in (getattr(norm, "drop", None), getattr(norm, "act", None)) if isinstance(m, nn.Module)]
        stand_ins[norm] = nn.Sequential(_Copy(), *after)
    replace_modules(model, stand_ins)
    return model


def _observed(model: nn.Module, names: list[str], run: Callable[[nn.Module], Any]) -> dict[str, Any]:
    """What layers and model return in evaluation: with gradients, which must come back, and without."""
    with _watched(model.eval(), names) as seen, torch.no_grad():
        outputs = run(model)
    torch.manual_seed(_SEED)
    gradients = _gradients(model, run(model)) if any(p.requires_grad for p in model.parameters()) else []
    return {"layers": seen, "outputs": all_numbers("output", outputs), "gradients": gradients}


def _trained(model: nn.Module, names: list[str], run: Callable[[nn.Module], Any]) -> dict[str, Any]:
    """What layers and model return in training mode; nothing where it wants targets or larger batches."""
    try:
        with _watched(model, names) as seen, torch.no_grad():
            return {"outputs": all_numbers("output", run(model)), "layers": seen}
    except Exception:  # noqa: BLE001
        return {}


@contextmanager
def _watched(model: nn.Module, names: list[str]) -> Iterator[Seen]:
    """What the layers return inside the block, whose random numbers are always the same."""
    seen: Seen = []

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen.append(numbers(name, output))

    wanted = set(names)
    handles = [m.register_forward_hook(hook(name)) for name, m in model.named_modules() if name in wanted]
    torch.manual_seed(_SEED)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _gradients(model: nn.Module, outputs: Any) -> Seen:
    loss = sum(tensor.square().mean() for tensor in tensors(outputs) if tensor.requires_grad)
    if not isinstance(loss, Tensor):
        return []
    loss.backward()
    found = [(name, parameter) for name, parameter in model.named_parameters() if parameter.grad is not None]
    gradients = [numbers(name, parameter.grad) for name, parameter in found]
    model.zero_grad()
    return gradients
