"""Calibration: ND++ starts from a network whose norms were trained, with the same outputs."""

from ndpp_dense.calibration.calibrate import calibrate_ndpp

__all__ = ["calibrate_ndpp"]
