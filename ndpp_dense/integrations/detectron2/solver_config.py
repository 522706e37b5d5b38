"""The configuration keys that the trainer reads beyond Detectron2's own."""

from __future__ import annotations

from detectron2.config import CfgNode

__all__ = ["AMP_DTYPES", "HELD_SETTINGS", "UNIMPORTANT_SETTINGS", "add_trainer_config"]

AMP_DTYPES = ("bfloat16", "float16")
# Part of the optimizer's, the scheduler's and the data's state in a checkpoint, which a resumed run goes on with.
HELD_SETTINGS = ("SOLVER.BASE_LR", "SOLVER.BIAS_LR_FACTOR", "SOLVER.MOMENTUM", "SOLVER.NESTEROV")
HELD_SETTINGS += ("SOLVER.WEIGHT_DECAY*", "SEED", "MODEL.WEIGHTS")
# What does not decide what is trained.
UNIMPORTANT_SETTINGS = ("OUTPUT_DIR", "VERSION", "VIS_PERIOD", "CUDNN_BENCHMARK", "MODEL.DEVICE")
UNIMPORTANT_SETTINGS += (
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_*",
    "SOLVER.LOG_PERIOD",
    "TEST.*",
    "DATASETS.TEST",
)


def add_trainer_config(cfg: CfgNode) -> None:
    """Add the trainer's keys with their defaults.

    Args:
        cfg: a Detectron2 configuration, changed in place.
    """
    # Mixed precision type, used when SOLVER.AMP.ENABLED: "bfloat16" (no loss scaling) or "float16" (with it).
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    # SOLVER.IMS_PER_BATCH images make one optimizer step; they pass through the model in this many portions.
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
