"""Small pictures and a small backbone, made here."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ndpp_dense.robustness.perceptual import StageMaps


def made_picture(seed, size=64):
    """Something with edges, areas and texture, ``(size, size, 3)`` bytes."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (size // 8, size // 8, 3)).astype(np.float64)
    fine = generator.normal(0, 25, (size, size, 3))
    picture = coarse.repeat(8, axis=0).repeat(8, axis=1)[:size, :size] + fine
    return picture.clip(0, 255).astype(np.uint8)


@pytest.fixture
def picture_folder(tmp_path):
    """A folder of six pictures of 64 pixels."""
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for number in range(6):
        place = folder / "inner" if number % 2 else folder
        Image.fromarray(made_picture(number)).save(place / f"p{number}.png")
    return folder


class TwoStages(nn.Module):
    """Two convolutions at strides 2 and 4, a backbone as Detectron2 has them."""

    def __init__(self, padding_mode="zeros"):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, stride=2, padding=1, padding_mode=padding_mode)
        self.second = nn.Conv2d(5, 7, 3, stride=2, padding=1, padding_mode=padding_mode)
        self.norm = nn.BatchNorm2d(7)

    def forward(self, x):
        res2 = self.first(x).relu()
        return {"res2": res2, "res3": self.norm(self.second(res2)).relu()}


@pytest.fixture
def stages():
    """A backbone of two stages."""
    torch.manual_seed(0)
    return StageMaps(TwoStages())


@pytest.fixture
def circular_stages():
    """The same with circular borders."""
    torch.manual_seed(0)
    return StageMaps(TwoStages("circular"))
