"""`WhiteningConfig`: everything that can be chosen about an ND++ layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from ndpp_dense.layers.local_scale import LOCAL_SCALES
from ndpp_dense.layers.statistics.schedule import Schedule
from ndpp_dense.ops.inverse_sqrt import SOLVERS

__all__ = ["WhiteningConfig", "preset"]

SAMPLING_STRIDES = {"imagenet": 3, "coco": 5, "cityscapes": 5}
MOMENTUM_BATCH = 8  # images of a step for which the presets' momentum is meant
# The squares of a matrix's entries are summed for its norm, and the smallest of them must be a normal number.
SMALLEST_EPS, LARGEST_EPS = 1e-18, 1e16
CHOICES = {
    "local_scale": tuple(LOCAL_SCALES),
    "statistics": ("batch", "ema"),
    "solver": tuple(SOLVERS),
    "grad": ("full", "detached"),
}


@dataclass(frozen=True)
class WhiteningConfig:
    """How a layer computes ``y = S X D w + b`` (ND++, Eq. 3). The defaults are ``fast("imagenet")``.

    Attributes:
        block_size: Channels whitened together in a 1x1 convolution; a layer takes the largest divisor of its channels
            up to this.
        block_size_spatial: The same for larger kernels, whose matrices have ``block_size_spatial * kernel area`` rows.
        block_size_linear: The same for the features of a linear layer.
        shared_blocks: True pools the blocks of a layer as extra rows, which then share one mean and one D; False gives
            each block its own.
        local_scale: S, per sample (per row of a linear layer): ``"l1"`` divides by the mean absolute value, ``"std"``
            subtracts the mean and divides by the standard deviation, ``"none"`` leaves the input as it is.
        scale_steps: Optimizer steps over which ``local_scale="l1"`` comes in, where weights were trained without it:
            ``S_n = m^(a-1) / m_n^a`` with ``a`` from 0 to 1, see :class:`ndpp_dense.layers.scale_ramp.ScaleRamp`. 0 is
            at once. Loops other than this package's call :func:`ndpp_dense.ramp_local_scale` before each step.
        statistics: ``"batch"`` whitens with this step's moments and keeps a running D for evaluation; ``"ema"`` solves
            D from bias-corrected running moments and uses the same D in training and evaluation.
        momentum: Weight of a step in the running statistics, in (0, 1].
        eps: Added to the covariance's diagonal before the inverse square root, from 1e-18 to 1e16.
        solver: ``"newton"`` (the paper's coupled inverse Newton iteration), ``"quintic"`` (converged) or ``"eigh"``.
        num_iters: Iterations of the solver, >= 1; ``"eigh"`` ignores it.
        grad: ``"full"`` differentiates through moments and solver, ``"detached"`` treats mean and D as constants.
            ``statistics="ema"`` is always detached.
        sampling_stride: Every ``sampling_stride``-th output position enters the moments, on both axes, >= 1.
        sync: Whether moments are summed over all ranks.
        schedule: ``"fresh"`` takes moments and solves D on every training step. ``"every=T"`` (T >= 2, with
            ``statistics="ema"`` only) does so on every T-th, and uses the stored mean and D on the others, without any
            statistics work or collective, in all layers of a model together. An update then weighs
            ``1 - (1 - momentum)^T``: what T steps would weigh, so that the average reaches as many steps back. Keep T
            small, since weights run away from a D that does not follow: ``docs/results/imagenette.md`` shows how far.
            A step is a forward pass of the converted model in training, also one that raises or has no usable row;
            layers that are run past the model count their own runs. ``"stale"`` (with ``statistics="ema"`` only) takes
            moments on every step and uses mean and D of the steps before: one collective a step for all layers of a
            converted model, in the background while the step goes on, and D solved for many layers at once (on CUDA
            also in the background).
            The micro-batches of an accumulated step count together, see :func:`ndpp_dense.micro_batch_of_step`.
            Until its first usable rows a layer works as under ``"fresh"``. See
            :mod:`ndpp_dense.layers.statistics.exchange`.
    """

    block_size: int = 32
    block_size_spatial: int = 8
    block_size_linear: int = 64
    shared_blocks: bool = False
    local_scale: str = "l1"
    scale_steps: int = 0
    statistics: str = "ema"
    momentum: float = 0.1
    eps: float = 0.1
    solver: str = "newton"
    num_iters: int = 3
    grad: str = "detached"
    sampling_stride: int = 3
    sync: bool = True
    schedule: str = "fresh"

    def __post_init__(self) -> None:
        faults = [
            f"{name} = {getattr(self, name)!r} (choices: {', '.join(map(repr, choices))})"
            for name, choices in CHOICES.items()
            if getattr(self, name) not in choices
        ]
        for name in ("block_size", "block_size_spatial", "block_size_linear", "num_iters", "sampling_stride"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                faults.append(f"{name} = {value!r} (a whole number >= 1)")
        faults += _ramp_faults(self.scale_steps, self.local_scale)
        for name in ("shared_blocks", "sync"):
            if not isinstance(getattr(self, name), bool):
                faults.append(f"{name} = {getattr(self, name)!r} (True or False)")
        if not _is_number(self.momentum) or not 0 < self.momentum <= 1:
            faults.append(f"momentum = {self.momentum!r} (a number in (0, 1])")
        if not _is_number(self.eps) or not SMALLEST_EPS <= self.eps <= LARGEST_EPS:
            faults.append(
                f"eps = {self.eps!r} (a number from {SMALLEST_EPS:g} to {LARGEST_EPS:g}: solvers square it in float32)"
            )
        if self.statistics == "ema" and self.grad == "full":
            faults.append("grad = 'full' with statistics = 'ema' (running statistics have no gradient: use 'detached')")
        try:
            reuses = not Schedule.parse(self.schedule).fresh
        except ValueError as fault:
            faults.append(str(fault))
        else:
            if reuses and self.statistics != "ema":
                faults.append(
                    f"schedule = {self.schedule!r} with statistics = {self.statistics!r} (only running statistics, "
                    "'ema', can be used again)"
                )
        if faults:
            raise ValueError(f"WhiteningConfig got invalid values: {'; '.join(faults)}.")

    @property
    def period(self) -> int:
        """T of the schedule: steps from one update of a layer to the next; 1 for ``"fresh"`` and ``"stale"``."""
        return Schedule.parse(self.schedule).period

    @property
    def update_momentum(self) -> float:
        """Weight of an update in the running statistics: that of the steps since the one before."""
        return self.momentum if self.period == 1 else 1 - (1 - self.momentum) ** self.period

    @property
    def follows_single_batches(self) -> bool:
        """Whether stored statistics are those of the last steps, and are better estimated anew before they are used."""
        return self.statistics == "batch" or self.update_momentum > 0.5

    def for_batch(self, batch_size: int) -> WhiteningConfig:
        """A copy whose running statistics reach back equally far in images, whatever the batch size.

        ``momentum`` is taken as that of a batch of 8 images: one of N weighs ``1 - (1 - momentum) ** (N / 8)``, since
        learning rates grow with the batch, and statistics that lag behind the weights by many large steps make
        training diverge. Batches below 8 keep the momentum, and the averages of a step with ``statistics="batch"``,
        which only evaluation uses, stay as they are.

        Args:
            batch_size: Images of an optimizer step over all ranks, >= 1.

        Raises:
            ValueError: ``batch_size`` is no whole number from 1 on.
        """
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(
                f"batch_size = {batch_size!r}: it must be a whole number, at least 1: the images of an optimizer step "
                "over all ranks."
            )
        if self.statistics == "batch" or batch_size <= MOMENTUM_BATCH:
            return self
        return replace(self, momentum=1 - (1 - self.momentum) ** (batch_size / MOMENTUM_BATCH))

    @classmethod
    def paper(cls, task: str = "imagenet") -> WhiteningConfig:
        """The published method (ND++, Acceleration Techniques).

        Args:
            task: ``"imagenet"`` (samples every third position), ``"coco"`` or ``"cityscapes"`` (every fifth).
        """
        return cls(
            block_size=64,
            block_size_spatial=64,
            block_size_linear=256,
            shared_blocks=True,
            statistics="batch",
            eps=1e-2,
            num_iters=5,
            grad="full",
            sampling_stride=_sampling_stride(task),
        )

    @classmethod
    def fast(cls, task: str = "imagenet") -> WhiteningConfig:
        """The variant that costs least for what it gives: averaged, detached statistics, small blocks, few iterations.

        Three iterations raise no direction by more than ``1.5^3`` over the one that varies most: what hardly varies in
        the data stays small.

        Args:
            task: ``"imagenet"`` (samples every third position), ``"coco"`` or ``"cityscapes"`` (every fifth).
        """
        return cls(sampling_stride=_sampling_stride(task))

    def override(self, values: Mapping[str, Any]) -> WhiteningConfig:
        """A copy with some fields replaced.

        Args:
            values: Field names (any case) and values.

        Raises:
            ValueError: An unknown field (the nearest is named) or an invalid value.
        """
        known = [field.name for field in fields(self)]
        lowered = {str(name).lower(): value for name, value in values.items()}
        unknown = [name for name in lowered if name not in known]
        if unknown:
            near = get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"WhiteningConfig has no field {unknown[0]!r}.{hint} Fields: {', '.join(known)}.")
        return replace(self, **lowered)


def preset(name: str, task: str) -> WhiteningConfig:
    """Looks a preset up by name.

    Args:
        name: ``"paper"`` or ``"fast"``.
        task: See :meth:`WhiteningConfig.paper`.

    Raises:
        ValueError: Unknown name or task; the nearest is named.
    """
    presets = {"paper": WhiteningConfig.paper, "fast": WhiteningConfig.fast}
    if name not in presets:
        raise ValueError(_unknown("preset", name, list(presets)))
    return presets[name](task)


def _sampling_stride(task: str) -> int:
    if task not in SAMPLING_STRIDES:
        raise ValueError(_unknown("task", task, list(SAMPLING_STRIDES)))
    return SAMPLING_STRIDES[task]


def _unknown(what: str, value: object, choices: list[str]) -> str:
    near = get_close_matches(str(value).lower(), choices, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {value!r}.{hint} Choices: {', '.join(map(repr, choices))}."


def _ramp_faults(steps: object, scale: str) -> list[str]:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        return [f"scale_steps = {steps!r} (a whole number >= 0)"]
    found = LOCAL_SCALES.get(scale)
    if not steps or found is None or found.ramps or found.foldable:
        return []
    able = ", ".join(repr(name) for name, other in LOCAL_SCALES.items() if other.ramps)
    return [f"scale_steps = {steps} with local_scale = {scale!r} (only {able} can come in by steps)"]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
