"""Settings that fit a data set of the user: anchors, detections an image, length of the run."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from ndpp_dense.datasets.coco.sizes import PARTS, Fit, Sizes

__all__ = ["fit_remarks", "fit_to_data"]


def fit_remarks(cfg: CfgNode, chosen: CfgNode, sizes: Sizes, fit: bool) -> list[str]:
    """Sets what fits a training set, or proposes it.

    Args:
        cfg: Changed in place where ``fit`` is set.
        chosen: The configuration as it will be, with what the user has overridden.
        sizes: Of the training set.
        fit: Whether to set it.

    Returns:
        A line for each key.
    """
    lines = []
    for key, (value, reason) in fit_to_data(chosen, sizes).items():
        if fit:
            cfg.merge_from_list([key, value])
        lines.append(f"{key} is {value}: {reason}" if fit else f"--fit-data would set {key} {value}: {reason}")
    return lines


def fit_to_data(cfg: CfgNode, sizes: Sizes) -> dict[str, tuple[Any, str]]:
    """What a configuration should have for a data set, by key, each with the reason; only what differs.

    Args:
        cfg: As it is.
        sizes: Of the training set.
    """
    settings = Fit(
        short_side=cfg.INPUT.MIN_SIZE_TEST or min(cfg.INPUT.MIN_SIZE_TRAIN),
        long_side=cfg.INPUT.MAX_SIZE_TEST,
        anchors=cfg.MODEL.ANCHOR_GENERATOR.SIZES,
        detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        batch=cfg.SOLVER.IMS_PER_BATCH,
        steps=cfg.SOLVER.MAX_ITER,
    )
    found = sizes.fit(settings)
    fitted: dict[str, tuple[Any, str]] = {}
    if "anchors" in found:
        fitted["MODEL.ANCHOR_GENERATOR.SIZES"] = found["anchors"]
    if "detections" in found:
        fitted["TEST.DETECTIONS_PER_IMAGE"] = found["detections"]
    if "steps" in found:
        steps, reason = found["steps"]
        fitted["SOLVER.MAX_ITER"] = (steps, reason)
        fitted["SOLVER.STEPS"] = ((steps * 3 // 4, steps * 9 // 10), "at three quarters and nine tenths of the run")
        fitted["SOLVER.WARMUP_ITERS"] = (min(cfg.SOLVER.WARMUP_ITERS, steps // 10), "at most a tenth of the run")
        for key, period in (("TEST.EVAL_PERIOD", steps // PARTS), ("SOLVER.CHECKPOINT_PERIOD", steps // PARTS)):
            fitted[key] = (period, f"{PARTS} times in the run")
    return fitted
