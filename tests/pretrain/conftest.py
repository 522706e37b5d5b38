"""A tiny ImageNet tree, and runs on it that take a second."""

import numpy as np
import pytest
import torch
from PIL import Image

CPU = torch.device("cpu")
TRAIN, VAL = 12, 5  # images of a class
SETTINGS = {
    "name": "test_resnet",  # timm's smallest
    # The norm behind the stem is adjacent to no convolution.
    "ndpp": {"block_size": 8, "block_size_spatial": 2, "block_size_linear": 8, "rules": {"bn1": True}},
    "image_size": 32,
    "batch_size": 8,
    "epochs": 2,
    "lr": 0.02,
    "workers": 0,
    "log_every": 2,
    "stats_batches": 1,
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_tree(root, validation="val"):
    """Dark and bright noise: two classes that a few steps tell apart."""
    generator = np.random.default_rng(0)
    for split, count in (("train", TRAIN), (validation, VAL)):
        for name, mean in (("n01", 60), ("n02", 180)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.normal(mean, 40, (32, 32, 3)).clip(0, 255).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{name}_{index}.png")
    return root


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """Return the folder of an ImageNet tree of two classes; not to be changed."""
    return write_tree(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture
def own_tree(tmp_path):
    """Return a tree that the test may change."""
    return write_tree(tmp_path / "imagenet")


@pytest.fixture
def settings():
    """Return the settings that `tiny` starts from."""
    return dict(SETTINGS)


@pytest.fixture
def tiny():
    """Return a function that makes settings."""
    from ndpp_dense.pretrain.config import PretrainConfig  # tests here skip by name where timm is not installed

    return lambda **settings: PretrainConfig(**{**SETTINGS, **settings})


@pytest.fixture
def trainer(tree, tiny):
    """Return a function that makes a trainer."""
    from ndpp_dense.pretrain.images import open_images
    from ndpp_dense.pretrain.trainer import Pretrainer

    def make(output, **settings):
        return Pretrainer(tiny(**settings), *open_images(tree), CPU, output)

    return make


@pytest.fixture(scope="session")
def differences():
    """Return a function that names what differs between two checkpoints, to the bit."""

    def compare(a, b, name=""):
        if isinstance(a, torch.Tensor):
            return [] if a.dtype == b.dtype and torch.equal(a, b) else [name]
        if isinstance(a, dict):
            found = [f"{name}.{key}" for key in a.keys() ^ b.keys()]
            return found + [x for key in a.keys() & b.keys() for x in compare(a[key], b[key], f"{name}.{key}")]
        if isinstance(a, list | tuple):
            pairs = zip(a, b, strict=True)
            return [x for i, (left, right) in enumerate(pairs) for x in compare(left, right, f"{name}.{i}")]
        return [] if a == b else [name]

    def load(path):
        return torch.load(path, weights_only=True)

    return lambda left, right: compare(load(left), load(right))
