"""DeepLabv3 small enough for tests, as a config and built."""

import copy

import pytest
import torch

SIDE = 64


def pytest_configure(config):
    # MMEngine, MMCV and MMSegmentation were written for older releases of Python, torch and themselves.
    for package in ("mmengine", "mmcv", "mmseg", "timm"):
        for category in ("DeprecationWarning", "FutureWarning", "ImportWarning", "UserWarning", "SyntaxWarning"):
            config.addinivalue_line("filterwarnings", f"ignore::{category}:{package}.*")
    config.addinivalue_line("filterwarnings", "ignore:torch.utils.checkpoint. the use_reentrant:UserWarning")


NORM = {"type": "SyncBN", "requires_grad": True}
MODEL = {
    "type": "NDPPModel",
    "ndpp": {"preset": "fast", "task": "cityscapes"},
    "data_preprocessor": {
        "type": "SegDataPreProcessor",
        "mean": [120.0, 120.0, 120.0],
        "std": [60.0, 60.0, 60.0],
        "bgr_to_rgb": True,
        "size": (SIDE, SIDE),
        "pad_val": 0,
        "seg_pad_val": 255,
    },
    "backbone": {
        "type": "ResNetV1c",
        "depth": 18,
        "stem_channels": 8,
        "base_channels": 8,
        "num_stages": 4,
        "out_indices": (0, 1, 2, 3),
        "dilations": (1, 1, 2, 4),
        "strides": (1, 2, 1, 1),
        "norm_cfg": NORM,
        "norm_eval": False,
        "style": "pytorch",
        "contract_dilation": True,
    },
    "decode_head": {
        "type": "ASPPHead",
        "in_channels": 64,
        "in_index": 3,
        "channels": 16,
        "dilations": (1, 2, 3, 4),
        "dropout_ratio": 0.1,
        "num_classes": 4,
        "norm_cfg": NORM,
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
    },
    "auxiliary_head": {
        "type": "FCNHead",
        "in_channels": 32,
        "in_index": 2,
        "channels": 8,
        "num_convs": 1,
        "concat_input": False,
        "dropout_ratio": 0.1,
        "num_classes": 4,
        "norm_cfg": NORM,
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 0.4},
    },
    "train_cfg": {},
    "test_cfg": {"mode": "whole"},
}


@pytest.fixture
def model_config():
    """Return a fresh model configuration."""
    return copy.deepcopy(MODEL)


@pytest.fixture
def build(model_config):
    """Return a function that builds the model; keyword arguments override ``ndpp`` and, prefixed, the backbone."""
    from mmengine.registry import MODELS, init_default_scope

    import ndpp_dense.integrations.mmseg  # noqa: F401

    def make(type="NDPPModel", backbone=None, **ndpp):
        init_default_scope("mmseg")
        torch.manual_seed(0)
        model_config["type"] = type
        model_config["backbone"].update(backbone or {})
        model_config["ndpp"].update(ndpp)
        if type != "NDPPModel":
            del model_config["ndpp"]
        return MODELS.build(model_config)

    return make


@pytest.fixture
def batch():
    """Return two images with labels, as a model's ``train_step`` takes them."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(1)
    samples = []
    for _ in range(2):
        labels = torch.randint(0, 4, (1, SIDE, SIDE), generator=generator)
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        shape = (SIDE, SIDE)
        sample.set_metainfo({"img_shape": shape, "ori_shape": shape, "pad_shape": shape})
        samples.append(sample)
    images = [torch.randint(0, 255, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8) for _ in samples]
    return {"inputs": images, "data_samples": samples}
