"""Calibration: ND++ starts from a network whose norms were trained, with the same outputs."""

from ndpp_dense.calibration.calibrate import calibrate_ndpp
from ndpp_dense.calibration.modes import training_paths

__all__ = ["calibrate_ndpp", "training_paths"]
