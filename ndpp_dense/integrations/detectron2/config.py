"""The config keys of this package: the node ``MODEL.NDPP`` and its reading, and what the trainer reads."""

from __future__ import annotations

from dataclasses import fields

from detectron2.config import CfgNode

from ndpp_dense.conversion import options
from ndpp_dense.conversion.options import NDPPOptions
from ndpp_dense.integrations.detectron2.pooling_backbone import add_pooling_config
from ndpp_dense.integrations.detectron2.timm_backbone import add_timm_config
from ndpp_dense.layers.config import WhiteningConfig

__all__ = [
    "AMP_DTYPES",
    "HELD_SETTINGS",
    "UNIMPORTANT_SETTINGS",
    "add_ndpp_config",
    "add_trainer_config",
    "read_options",
]

AMP_DTYPES = ("bfloat16", "float16")
# Part of the optimizer's, the scheduler's and the data's state in a checkpoint, which a resumed run goes on with.
HELD_SETTINGS = ("SOLVER.BASE_LR", "SOLVER.BIAS_LR_FACTOR", "SOLVER.MOMENTUM", "SOLVER.NESTEROV")
HELD_SETTINGS += ("SOLVER.WEIGHT_DECAY*", "SEED", "MODEL.WEIGHTS")
# What does not decide what is trained.
UNIMPORTANT_SETTINGS = ("OUTPUT_DIR", "VERSION", "VIS_PERIOD", "CUDNN_BENCHMARK", "MODEL.DEVICE")
UNIMPORTANT_SETTINGS += (
    "MODEL.NDPP.CALIBRATE*",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_*",
    "SOLVER.LOG_PERIOD",
    "TEST.*",
    "DATASETS.TEST",
)
# Keys of the node that are no options of whitening.
_OF_DETECTRON2 = ("META_ARCHITECTURE", "ZERO_INIT_RESIDUAL", "CALIBRATE", "CALIBRATE_BATCHES")


def add_ndpp_config(cfg: CfgNode) -> CfgNode:
    """Adds the keys of this package to a Detectron2 config, in place.

    ``MODEL.NDPP`` holds:

    - ``META_ARCHITECTURE``: what ``MODEL.META_ARCHITECTURE: NDPPModel`` builds and converts;
    - ``PRESET`` (``"fast"`` or ``"paper"``) and ``TASK`` (``"coco"``, ``"imagenet"`` or ``"cityscapes"``);
    - every field of ``WhiteningConfig`` in upper case; ``None`` means as the preset has it;
    - ``RULES``: exceptions by layer name, pattern or type, e.g. ``{"*.fpn_*": {"EPS": 0.1}, "*.stem.*": False}``;
    - ``ZERO_INIT_RESIDUAL``: start the last convolution of every residual branch at zero, for training from scratch;
      loaded weights take the place of the zeros;
    - ``CALIBRATE``: load ``MODEL.WEIGHTS`` into the network as it is without ND++, and start as ND++ with the same
      function, see :func:`ndpp_dense.calibrate_ndpp`; ``CALIBRATE_BATCHES``: of training images, for its statistics;
    - ``VERIFY``: prove by a forward pass on a blank image that every converted layer runs.

    ``MODEL.POOLING`` is :func:`~ndpp_dense.integrations.detectron2.pooling_backbone.add_pooling_config`'s.

    ``MODEL.TIMM`` is :func:`~ndpp_dense.integrations.detectron2.timm_backbone.add_timm_config`'s.

    Args:
        cfg: As from ``get_cfg()``.

    Returns:
        The same config.
    """
    node = CfgNode()
    node.META_ARCHITECTURE = "GeneralizedRCNN"
    node.PRESET = "fast"
    node.TASK = "coco"
    for field in fields(WhiteningConfig):
        node[field.name.upper()] = None
    node.RULES = CfgNode(new_allowed=True)
    node.ZERO_INIT_RESIDUAL = True
    node.CALIBRATE = False
    node.CALIBRATE_BATCHES = 20
    node.VERIFY = True
    cfg.MODEL.NDPP = node
    add_pooling_config(cfg)
    add_timm_config(cfg)
    add_trainer_config(cfg)
    return cfg


def read_options(cfg: CfgNode) -> NDPPOptions:
    """What ``MODEL.NDPP`` says of whitening, with the momentum for ``SOLVER.IMS_PER_BATCH`` unless it names one.

    Raises:
        ValueError: Unknown preset or task (the nearest is named), or invalid values.
    """
    node = cfg.MODEL.NDPP
    values = {name.lower(): value for name, value in node.items() if name not in _OF_DETECTRON2}
    return options.read_options(values, node.TASK).for_batch(cfg.SOLVER.IMS_PER_BATCH)


def add_trainer_config(cfg: CfgNode) -> None:
    """Add the trainer's keys with their defaults.

    Args:
        cfg: a Detectron2 configuration, changed in place.
    """
    # Mixed precision type, used when SOLVER.AMP.ENABLED: "bfloat16" (no loss scaling) or "float16" (with it).
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    # SOLVER.IMS_PER_BATCH images make one optimizer step; they pass through the model in this many micro-batches.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Let DistributedDataParallel search for parameters that took no part in the loss. Costs a little time.
    cfg.SOLVER.FIND_UNUSED_PARAMETERS = False
    # Take the means of box and mask losses over the regions of all processes, not of each: what one process with the
    # whole batch would compute. Costs a small exchange in every step.
    cfg.SOLVER.MEAN_OVER_ALL_REGIONS = False
    # "bfloat16" halves the bytes of gradients between processes; empty for full precision.
    cfg.SOLVER.GRAD_COMPRESSION = ""
    # How many of the periodic checkpoints stay on disk. The best and the final one always do.
    cfg.SOLVER.CHECKPOINT_KEEP = 2
    # Iterations between two records of losses and learning rate.
    cfg.SOLVER.LOG_PERIOD = 20
    # Training batches from which ND++ statistics are estimated anew before an evaluation or a save.
    # Only read when the statistics follow single batches (MODEL.NDPP.STATISTICS "batch").
    cfg.TEST.STATS_BATCHES = 20
