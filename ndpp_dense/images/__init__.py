"""Image files: one reader and one finder for every tool, so that training and inference see the same."""

from ndpp_dense.images.folders import SUFFIXES, FoundImages, find_images
from ndpp_dense.images.labels import read_labels
from ndpp_dense.images.reading import read_image

__all__ = ["SUFFIXES", "FoundImages", "find_images", "read_image", "read_labels"]
