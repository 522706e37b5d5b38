"""The frameworks that there are: one record each. Everything else that must tell them apart looks here.

Nothing is imported before it is used: records name modules and attributes. A new framework is a folder and a record,
and a class in ``ndpp_dense.weights`` if it names weights in its own way: files are read where it is not installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndpp_dense.weights.formats import WeightFormat

__all__ = [
    "FRAMEWORKS",
    "Framework",
    "format_names",
    "framework",
    "framework_of_config",
    "framework_of_task",
    "weight_formats",
]


@dataclass(frozen=True)
class Framework:
    """What the package knows of a framework. Modules and attributes are given as ``module`` and ``module:attribute``.

    Attributes:
        name: As it is typed, and as rows of the model zoo have it.
        title: As people write it.
        packages: Top-level packages that it consists of, its own first: that is looked for to know if it is installed.
        front_door: Module that registers everything in the framework when it is imported.
        install: What to type where the framework is missing.
        repair: What to type where it is there and cannot be imported.
        without: What there is not without it, for the report of what is installed; empty for nothing to say.
        check: Function that says in words which release works, or raises. Called in a process of its own.
        formats: By name, how weights are named: see :class:`ndpp_dense.weights.formats.WeightFormat`.
        zoo: Module with ``build_zoo_model``, ``evaluate_zoo_model`` and ``run_blank``.
        predictor: Module with ``of_zoo`` and ``of_run``, which make what predicts and draws; empty where models make
            no pictures.
        config_suffix: Of its config files.
        config_sign: What a line of them begins with, where others have the same suffix; empty for anything.
        shift_task: What is measured of its models when pictures are moved.
        shift_subject: Function from a :class:`ndpp_dense.robustness.shift.task.SubjectRequest` to what is measured.
        named_models: Whether it has models by name, without a config.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    front_door: str
    install: str
    repair: str
    check: str
    formats: Mapping[str, str]
    zoo: str
    shift_task: str
    shift_subject: str
    config_suffix: str
    config_sign: str = ""
    predictor: str = ""
    without: str = ""
    named_models: bool = False

    def load(self, reference: str) -> Any:
        """A module or an attribute that the record names, after the front door.

        Raises:
            ModuleNotFoundError: The framework is not installed; says what to type.
        """
        try:
            import_module(self.front_door)
            return _resolved(reference)
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("ndpp_dense"):
                raise
            message = f"{self.title} is needed ({self.install}): {error}. `ndpp doctor` says what is missing."
            raise ModuleNotFoundError(message, name=error.name) from error

    def owns_config(self, path: Path) -> bool:
        """Whether a config file looks like one of this framework."""
        if path.suffix != self.config_suffix:
            return False
        sign = re.compile(rf"^(?:{self.config_sign})", re.MULTILINE)
        return not self.config_sign or bool(sign.search(path.read_text(encoding="utf-8")))


_RECORDS = (
    Framework(
        name="detectron2",
        title="Detectron2",
        packages=("detectron2", "fvcore", "iopath"),
        front_door="ndpp_dense.integrations.detectron2",
        install="pip install 'ndpp-dense[detectron2]' && ndpp install-detectron2",
        repair="pip uninstall -y detectron2 && ndpp install-detectron2",
        check="ndpp_dense.integrations.detectron2.health:describe",
        formats={"detectron2": "ndpp_dense.weights.detectron2_names:DETECTRON2"},
        zoo="ndpp_dense.integrations.detectron2.zoo",
        predictor="ndpp_dense.integrations.detectron2.prediction",
        config_suffix=".yaml",
        config_sign="MODEL:|_BASE_:|DATASETS:",
        shift_task="detection",
        shift_subject="ndpp_dense.integrations.detectron2.shift:open_subject",
    ),
    Framework(
        name="mmseg",
        title="MMSegmentation",
        packages=("mmseg", "mmengine", "mmcv"),
        front_door="ndpp_dense.integrations.mmseg",
        install="pip install 'ndpp-dense[mmseg]'",
        repair="pip install 'ndpp-dense[mmseg]'",
        check="ndpp_dense.integrations.mmseg.health:describe",
        formats={"mmseg": "ndpp_dense.weights.mmseg_names:MMSEG"},
        zoo="ndpp_dense.integrations.mmseg.zoo",
        predictor="ndpp_dense.integrations.mmseg.prediction",
        config_suffix=".py",
        shift_task="segmentation",
        shift_subject="ndpp_dense.integrations.mmseg.shift:open_subject",
    ),
    Framework(  # the last: its configs are YAML without a sign of their own
        name="timm",
        title="timm",
        packages=("timm",),
        front_door="ndpp_dense.pretrain",
        install="pip install 'ndpp-dense[pretrain]'",
        repair="pip install -U timm",
        without="no backbones, no pretraining",
        check="ndpp_dense.pretrain.health:describe",
        formats={
            "timm": "ndpp_dense.weights.timm_names:TIMM",
            "torchvision": "ndpp_dense.weights.timm_names:TORCHVISION",
        },
        zoo="ndpp_dense.pretrain.zoo",
        config_suffix=".yaml",
        shift_task="classification",
        shift_subject="ndpp_dense.robustness.shift.models:open_subject",
        named_models=True,
    ),
)
FRAMEWORKS = {record.name: record for record in _RECORDS}


def framework(name: str) -> Framework:
    """The record of a name.

    Raises:
        ValueError: There is none; the nearest is named.
    """
    if name not in FRAMEWORKS:
        near = get_close_matches(name, FRAMEWORKS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no framework {name!r:.60}.{hint} Choices: {', '.join(FRAMEWORKS)}.")
    return FRAMEWORKS[name]


def framework_of_task(task: str) -> Framework:
    """The record of what is measured when pictures are moved, such as ``"detection"``."""
    return next(record for record in _RECORDS if record.shift_task == task)


def framework_of_config(path: Path) -> Framework:
    """The framework that a config file is written for.

    Raises:
        ValueError: It has another suffix than configs have.
    """
    for record in _RECORDS:
        if record.owns_config(path):
            return record
    suffixes = " or ".join(sorted({record.config_suffix for record in _RECORDS}))
    raise ValueError(f"{path} is no config of {', '.join(r.title for r in _RECORDS)}: its name must end in {suffixes}.")


def format_names() -> list[str]:
    """Names of the formats of weights; nothing is imported for them."""
    return [name for record in _RECORDS for name in record.formats]


def weight_formats() -> dict[str, WeightFormat]:
    """The formats of weights by name; no framework is imported for them."""
    return {name: _resolved(entry) for record in _RECORDS for name, entry in record.formats.items()}


def _resolved(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute) if attribute else import_module(module)
