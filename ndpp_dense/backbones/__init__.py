"""Backbones by name: classifiers built on timm's models, whose weights every framework integration can load."""

from ndpp_dense.backbones.cards import BackboneCard
from ndpp_dense.backbones.registry import backbone_card, create_backbone, list_backbones

__all__ = ["BackboneCard", "backbone_card", "create_backbone", "list_backbones"]
