"""DeepLabv3 small enough for tests, as a config and built."""

import copy
import uuid

import pytest
import torch

SIDE = 64


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
        config = copy.deepcopy(model_config)
        config["type"] = type
        config["backbone"].update(backbone or {})
        config["ndpp"].update(ndpp)
        if type != "NDPPModel":
            del config["ndpp"]
        return MODELS.build(config)

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


@pytest.fixture(scope="session")
def streets(tmp_path_factory):
    """Return the folder of a small street set."""
    from ndpp_dense.datasets.streets import ensure_streets

    return ensure_streets(tmp_path_factory.mktemp("streets"), num_train=6, num_val=2, height=48)


@pytest.fixture
def run_config(streets, tmp_path):
    """Return a function that makes the demo's config small; options as on the command line."""
    from ndpp_dense.integrations.mmseg.run_config import build_config

    def make(work_dir="run", report=False, **options):
        changes = {name.replace("__", "."): value for name, value in options.items()}
        config = build_config("deeplabv3_ndpp_demo", work_dir=str(tmp_path / work_dir), dataset=str(streets))
        small = copy.deepcopy(MODEL)
        small["data_preprocessor"]["size"] = (48, 64)
        small["decode_head"]["num_classes"] = small["auxiliary_head"]["num_classes"] = 8
        config.merge_from_dict({"model": small})
        pipeline = config.train_dataloader.dataset.pipeline
        pipeline[3].scale, pipeline[4].crop_size = (96, 48), (48, 64)
        config.merge_from_dict(
            {
                "experiment_name": uuid.uuid4().hex,  # MMEngine keeps one log a name in a process
                "train_dataloader.batch_size": 2,
                "train_cfg": {"max_iters": 4, "val_interval": 2},
                "default_hooks.checkpoint": {"interval": 2, "max_keep_ckpts": 9, "save_best": None},
                "default_hooks.logger.interval": 1,
                "custom_hooks.1.num_batches": 2,
                **changes,
            }
        )
        if not report:  # drawing takes longer than training
            config.custom_hooks = [hook for hook in config.custom_hooks if hook.type != "NDPPReportHook"]
        return config

    return make


@pytest.fixture
def train(run_config):
    """Return a function that trains the small demo in this process; returns the runner."""
    from mmengine.runner import Runner

    def run(*args, **options):
        runner = Runner.from_cfg(run_config(*args, **options))
        runner.train()
        return runner

    return run


@pytest.fixture
def same_weights():
    """Return a function that names the entries in which two state dictionaries differ by as much as a bit."""

    def compare(one, other):
        assert one.keys() == other.keys()
        return [name for name in one if not torch.equal(one[name], other[name])]

    return compare
