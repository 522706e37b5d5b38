"""Small subjects to measure."""

import numpy as np
import pytest
import torch

from ndpp_dense.robustness.shift import ClassificationTask, Subject


class Pictures:
    """Random pictures with a label each; None leaves labels out."""

    def __init__(self, count=5, size=(12, 16), labels=True):
        generator = torch.Generator().manual_seed(0)
        self.pictures = torch.rand(count, 3, *size, generator=generator)
        self.labels = [i % 2 if labels else None for i in range(count)]
        self.read = []

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, number):
        self.read.append(number)
        return self.pictures[number], self.labels[number]


def brightest_half(pictures):
    """Class 0 where the left half is brighter, 1 where the right one is: a classifier that sees position."""
    return [np.array([float(p[..., :8].mean()), float(p[..., 8:].mean())]) * 9 for p in pictures]


@pytest.fixture
def pictures():
    return Pictures


@pytest.fixture
def subject():
    def make(images=None, predict=brightest_half, **options):
        return Subject("halves", predict, Pictures() if images is None else images, ClassificationTask(), **options)

    return make
