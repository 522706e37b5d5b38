"""Detectron2 0.6 as a pure-Python package. Nothing here imports Detectron2, torch or the layers."""
