"""From a config name and command-line choices to a complete, frozen configuration."""

from __future__ import annotations

import difflib
import functools
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from ndpp_dense.atomic_file import replacing
from ndpp_dense.config_files import UniqueKeys, find_config, yaml_fault
from ndpp_dense.datasets.coco import CocoSummary, as_coco, parse_dataset_flag, shared_images
from ndpp_dense.distributed.main_rank import decided_by_main
from ndpp_dense.distributed.scaling import Scaling, loader_processes
from ndpp_dense.integrations.detectron2 import add_ndpp_config
from ndpp_dense.integrations.detectron2.class_checks import class_key
from ndpp_dense.integrations.detectron2.datasets import (
    check_available,
    register_coco,
    register_demo,
    validate_registered,
)
from ndpp_dense.integrations.detectron2.fitting import fit_remarks
from ndpp_dense.integrations.detectron2.mapper import check_thickness
from ndpp_dense.integrations.detectron2.reading import check_proposals
from ndpp_dense.integrations.detectron2.setting_checks import check_settings
from ndpp_dense.redaction import redacted
from ndpp_dense.training.log_files import forgiving

__all__ = ["build_config", "flat_settings", "merge_config", "prepare_run", "register_datasets"]

_MAPPING_HINT = """Write it as in a config file: '{"*.fpn_*": {EPS: 0.05}, "*.stem.*": False}'."""
# Name on the lines of each package's logger.
_LOGGERS = {"ndpp_dense": "ndpp", "detectron2": "d2", "fvcore": "fvcore"}


class _TextLoader(UniqueKeys, yaml.BaseLoader):
    """Reads text alone: tags mean nothing."""


def build_config(
    name: str,
    *,
    datasets: Sequence[str] = (),
    device: str | None = None,
    output: str | None = None,
    overrides: Sequence[str] = (),
    auto_scale: int | None = None,
    fit: bool = False,
) -> tuple[CfgNode, list[str]]:
    """Build the configuration of a run and register the data sets it needs.

    Args:
        name: path of a config, or the bare name of one that comes with the package.
        datasets: ``NAME=JSON:IMAGES`` values, see :func:`register_datasets`.
        device: ``cuda`` or ``cpu``; None keeps the config's.
        output: folder of the run; None takes the config's, or ``output/<config name>`` where it sets none.
        overrides: keys and values in turn, applied last.
        fit: let the training set that a flag names decide on anchors, detections and the length of the run.
        auto_scale: processes that the config is written for; batch, learning rate, schedule and loader processes are
            scaled to those that there are. None leaves them.

    Returns:
        The frozen configuration, and remarks on what the data sets decided.

    Raises:
        FileNotFoundError: if config or data are missing.
        KeyError: if a key does not exist; names the nearest.
        ValueError: if a value has the wrong type, or a data set is faulty or unknown.
    """
    cfg = get_cfg()
    default_output = cfg.OUTPUT_DIR
    add_ndpp_config(cfg)
    path = find_config(name)
    _merge_file(cfg, path)
    register_demo()
    chosen = cfg.clone()  # the overrides decide what the data need, and come after what the data decide
    _merge_overrides(chosen, overrides)
    check_settings(chosen)
    remarks = register_datasets(cfg, datasets, chosen, fit)
    if device is not None:
        cfg.MODEL.DEVICE = device
    if output is not None:
        cfg.OUTPUT_DIR = output
    elif default_output == cfg.OUTPUT_DIR:
        cfg.OUTPUT_DIR = str(Path("output") / path.stem)
    _merge_overrides(cfg, overrides)
    check_available([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    remarks += _check_registered(cfg, [flag.partition("=")[0].strip() for flag in datasets])
    check_proposals(cfg)
    if auto_scale is not None:
        cfg, changes = _scaled(cfg, Scaling(auto_scale, comm.get_world_size()))
        remarks += changes
    cfg.freeze()
    return cfg, remarks


def merge_config(cfg: CfgNode, path: Path, overrides: Sequence[str] = ()) -> None:
    """Merges a config file and overrides into a configuration, without a look at data sets.

    Args:
        cfg: changed in place.
        path: the file.
        overrides: keys and values in turn.

    Raises:
        KeyError: if a key does not exist; names the nearest.
        ValueError: if a value has the wrong type.
    """
    _merge_file(cfg, path)
    _merge_overrides(cfg, overrides)


def flat_settings(cfg: CfgNode) -> dict[str, Any]:
    """Values by their whole key, such as ``SOLVER.BASE_LR``."""
    return {key: _value(cfg, key) for key in _keys(cfg)}


def prepare_run(cfg: CfgNode) -> None:
    """Log to the terminal and to ``OUTPUT_DIR/log.txt``, keep the configuration there, seed the random generators.

    Args:
        cfg: a configuration; ``SEED`` below 0 asks for a random seed.
    """
    folder, rank = Path(cfg.OUTPUT_DIR), comm.get_rank()
    folder.mkdir(parents=True, exist_ok=True)
    setup_logger.cache_clear()
    for name, short in _LOGGERS.items():
        logger = logging.getLogger(name)
        for handler in [*logger.handlers]:  # of an earlier run in this process
            logger.removeHandler(handler)
        for handler in setup_logger(str(folder), distributed_rank=rank, name=name, abbrev_name=short).handlers:
            forgiving(handler)
    if comm.is_main_process():
        with replacing(folder / "config.yaml") as path:
            path.write_text(redacted(cfg.dump()), encoding="utf-8")  # a folder that may be passed on
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def register_datasets(
    cfg: CfgNode, flags: Sequence[str], chosen: CfgNode | None = None, fit: bool = False
) -> list[str]:
    """Register COCO-format sets and let them take the place of the config's sets, of both.

    Besides the names in ``DATASETS``, this sets the number of classes, and the mask format where masks are RLE. Where
    only sets for training are given, nothing is evaluated: the config's test set is of other categories.

    Args:
        cfg: changed in place.
        flags: ``NAME=JSON:IMAGES``, ``NAME=DATA.YAML`` (YOLO) or ``NAME=FOLDER`` (Pascal VOC) values; a name that ends
            in ``_train`` is for training, in ``_val`` for evaluation.
        chosen: the configuration as it will be, overrides included: whether objects need masks, and sizes of images.
            None takes ``cfg``.
        fit: set anchors, detections and the length of the run to what the training set asks for; else that is said.

    Returns:
        A line for each key that the annotations decided, and for what is unusual in them.

    Raises:
        FileNotFoundError: if files are missing.
        ValueError: if a flag or an annotation file is faulty, or the sets have different categories.
    """
    given = [parse_dataset_flag(flag) for flag in flags]
    if not given:
        return []
    sources = decided_by_main(lambda: as_coco(given))
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--dataset is given twice for {', '.join(twice)}: give each set its own name.")
    chosen = chosen or cfg
    masks, keypoints = chosen.MODEL.MASK_ON, chosen.MODEL.KEYPOINT_ON
    summaries = {source.name: register_coco(source, masks=masks, keypoints=keypoints) for source in sources}
    for name, summary in summaries.items():
        _check_thinnest(chosen, name, summary)
    cfg.DATASETS.TRAIN = tuple(name for name in names if name.endswith("_train"))
    cfg.DATASETS.TEST = tuple(name for name in names if name.endswith("_val"))
    categories = _common_categories(summaries)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = len(categories)
    remarks = []
    if key := class_key(chosen):
        remarks.append(f"{len(categories)} categories in the data: {key} is {len(categories)}")
    if any(summary.mask_format in ("bitmask", "mixed") for summary in summaries.values()):
        cfg.INPUT.MASK_FORMAT = "bitmask"
        remarks.append("masks are RLE: INPUT.MASK_FORMAT is bitmask")
    if not cfg.DATASETS.TEST:
        remarks.append(
            "no --dataset NAME_val=...: nothing is evaluated (DATASETS.TEST is empty), so there will be no AP, no "
            "results.json and no model_best.pth; model_final.pth is the last state, good or not"
        )
    trained = {name: summary for name, summary in summaries.items() if name in cfg.DATASETS.TRAIN}
    remarks += fit_remarks(cfg, chosen, next(iter(trained.values())).sizes, fit) if trained else []
    warnings = [line for source in sources for line in (*source.remarks, *summaries[source.name].warnings)]
    warnings += shared_images(trained, {name: summaries[name] for name in cfg.DATASETS.TEST})
    return [*remarks, *(f"warning: {line}" for line in warnings)]


def _check_registered(cfg: CfgNode, checked: Sequence[str]) -> list[str]:
    """Checks sets that the user's own code has registered; returns what is unusual in them."""
    remarks: list[str] = []
    found: dict[str, CocoSummary] = {}
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        needed = {"masks": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
        summary = None
        if name not in checked:
            summary = validate_registered(name, **needed, evaluated=name in cfg.DATASETS.TEST)
        if summary is None:
            continue
        _check_thinnest(cfg, name, summary)
        if cfg.MODEL.MASK_ON and summary.mask_format in ("bitmask", "mixed") and cfg.INPUT.MASK_FORMAT != "bitmask":
            raise ValueError(f"data set {name!r} has masks as RLE: set INPUT.MASK_FORMAT bitmask.")
        found[name] = summary
        remarks += [f"warning: {line}" for line in summary.warnings]
    trained, evaluated = (
        {name: found[name] for name in names if name in found} for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    )
    return [*remarks, *(f"warning: {line}" for line in shared_images(trained, evaluated))]


def _check_thinnest(cfg: CfgNode, name: str, summary: CocoSummary) -> None:
    """An image that resizing leaves without pixels would end the run when its turn comes."""
    if name.endswith("_train") or name in cfg.DATASETS.TRAIN:
        shortest, longest = min(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN
    else:
        shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    file_name, height, width = summary.thinnest
    try:
        check_thickness(height, width, shortest, longest)
    except ValueError as error:
        raise ValueError(f"{name}: image {file_name}: {error}. Remove it, cut it, or raise INPUT.MAX_SIZE_*.") from None


_SCALED = ("SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS", "SOLVER.STEPS")
_SCALED += ("TEST.EVAL_PERIOD", "SOLVER.CHECKPOINT_PERIOD", "DATALOADER.NUM_WORKERS")


def _scaled(cfg: CfgNode, scaling: Scaling) -> tuple[CfgNode, list[str]]:
    scaling.batch(cfg.SOLVER.IMS_PER_BATCH)  # raises where it does not split
    before = {key: _value(cfg, key) for key in _SCALED}
    cfg.SOLVER.REFERENCE_WORLD_SIZE = scaling.meant_for
    cfg = DefaultTrainer.auto_scale_workers(cfg, scaling.world_size)
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = loader_processes(cfg.DATALOADER.NUM_WORKERS, comm.get_local_size())
    changed = [f"  {key} {before[key]} -> {_value(cfg, key)}" for key in _SCALED if before[key] != _value(cfg, key)]
    return cfg, [f"{scaling}:", *(changed or ["  nothing to change"])]


def _value(node: Any, key: str) -> Any:
    for part in key.split("."):
        node = node[part]
    return node


def _common_categories(summaries: dict[str, CocoSummary]) -> tuple[str, ...]:
    (first, summary), *others = summaries.items()
    for name, other in others:
        if other.categories != summary.categories:
            raise ValueError(
                f"data sets {first!r} and {name!r} have different categories: {_short(summary.categories)} and "
                f"{_short(other.categories)}. A model needs one list: give both files the same categories and ids."
            )
    return summary.categories


def _short(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"


def _merge_file(cfg: CfgNode, path: Path) -> None:
    _check_files(path, ())
    try:
        # Detectron2 takes files for its own and runs the tags of Python in them, unless told not to; in bases too.
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except yaml.YAMLError as error:
        raise ValueError(f"config {yaml_fault(error)}") from error
    except KeyError as error:
        key = str(error.args[0]).rsplit(": ", 1)[-1]
        raise KeyError(f"config {path}: {_unknown(cfg, key)}") from error
    except (AttributeError, TypeError, AssertionError) as error:  # a value where Detectron2 looks for a section
        raise ValueError(f"config {path}: {error}. It must hold 'SECTION: {{KEY: value}}' lines.") from error
    except ValueError as error:
        raise ValueError(f"config {path}: {_mismatch(error)}") from error


def _check_files(path: Path, users: tuple[Path, ...]) -> None:
    """Follows ``_BASE_``: each must be a file with a mapping, and none may lead back to one before."""
    chain = (*users, path.resolve())
    if path.resolve() in users:
        raise ValueError(f"config {path} builds on itself through _BASE_: {' -> '.join(file.name for file in chain)}.")
    if not path.is_file():
        user = f"config {users[-1]}: _BASE_ names {path}, " if users else f"config {path}: "
        raise FileNotFoundError(f"{user}and there is no such file. Correct the path; it is relative to the config.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _TextLoader)
    except yaml.constructor.ConstructorError as error:
        raise ValueError(f"config {yaml_fault(error, path)}") from error
    except yaml.YAMLError:
        return  # which reading it will say, with the line
    except UnicodeDecodeError as error:
        raise ValueError(f"config {path} is no text: {error}.") from error
    if not isinstance(content, dict):
        found = "nothing" if content in (None, "") else f"a {type(content).__name__}"
        raise ValueError(f"config {path} holds {found}; it must hold 'SECTION: {{KEY: value}}' lines.")
    bases = content.get("_BASE_", [])
    for base in bases if isinstance(bases, list) else [bases]:
        if "://" not in str(base):
            _check_files(path.parent / Path(str(base)).expanduser(), chain)


def _merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    if len(overrides) % 2:
        raise ValueError(f"overrides are KEY VALUE pairs (no '='), got {len(overrides)} words: {' '.join(overrides)}.")
    known, open_keys = set(_keys(cfg)), set(_open_keys(cfg))
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        if key not in known:
            raise KeyError(_unknown(cfg, key))
        try:
            if key in open_keys:
                _node(cfg, key).update(_mapping(value))
            else:
                pair: list[Any] = [key, _as_float(value) if isinstance(_value(cfg, key), float) else value]
                cfg.merge_from_list(pair)
        except (ValueError, AssertionError) as error:
            raise ValueError(f"override {key} {value}: {_mismatch(error)}") from error


_MISMATCH = re.compile(r"Type mismatch \(<class '([\w.]+)'> vs. <class '([\w.]+)'>\).*for config key: (\S+)", re.DOTALL)
_KINDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "True or False", "tuple": "a list"}
_KINDS |= {"list": "a list", "dict": "a mapping", "CfgNode": "a section of keys", "NoneType": "nothing"}


def _mismatch(error: Exception) -> str:
    """Detectron2's words about a value of a wrong type, without types of Python and whole sections."""
    found = _MISMATCH.search(str(error))
    if found is None:
        return str(error)
    wanted, given = (_KINDS.get(name.rsplit(".", 1)[-1], name) for name in found.groups()[:2])
    return f"{found[3]} must be {wanted}, not {given}."


def _as_float(text: str) -> float | str:
    """Reads 1 and nan as numbers, which Detectron2 takes for an int and a text."""
    try:
        return float(text)
    except ValueError:
        return text


def _node(cfg: CfgNode, key: str) -> CfgNode:
    return functools.reduce(CfgNode.__getitem__, key.split("."), cfg)


def _mapping(text: str) -> dict[str, Any]:
    """Reads ``{"*.fpn_*": {EPS: 0.05}}``, as a yaml config has it; Detectron2 itself takes no mapping here."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML ({' '.join(str(error).split())}). {_MAPPING_HINT}") from error
    if not isinstance(found, dict):
        raise ValueError(f"it is a {type(found).__name__}, no mapping. {_MAPPING_HINT}")
    return CfgNode(found)  # whose mappings are nodes too


def _unknown(cfg: CfgNode, key: str) -> str:
    keys = list(_keys(cfg))
    near = difflib.get_close_matches(key.upper(), keys, n=3)
    # A right last part in the wrong place is the likelier slip.
    near = [k for k in keys if k.rsplit(".", 1)[-1] == key.upper().rsplit(".", 1)[-1]][:3] or near
    hint = f"The nearest: {', '.join(near)}." if near else "No key is near it."
    return f"no configuration key {key!r}. {hint}"


def _open_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Keys of the sections that take names of the user's own, such as ``MODEL.NDPP.RULES``."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            if value.is_new_allowed():
                yield f"{prefix}{key}"
            else:
                yield from _open_keys(value, f"{prefix}{key}.")


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, CfgNode) and not value.is_new_allowed():
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
