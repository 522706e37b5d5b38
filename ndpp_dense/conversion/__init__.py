"""Conversion: plain layers become ND++ layers in place, norms go, and folding turns them back into plain layers."""

from ndpp_dense.conversion.convert import convert_to_ndpp
from ndpp_dense.conversion.fold import fold_ndpp
from ndpp_dense.conversion.report import ConversionReport

__all__ = ["ConversionReport", "convert_to_ndpp", "fold_ndpp"]
