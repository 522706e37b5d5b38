"""What ndpp convert writes is what a segmentor takes, key for key, and trains from."""

from pathlib import Path

import pytest

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")

from ndpp_dense import WhiteningConfig  # noqa: E402
from ndpp_dense.backbones.cards import R50  # noqa: E402

pytestmark = pytest.mark.mmseg
BACKBONE = {"type": "PoolingResNetV1c", "pattern": "hybrid", "depth": 50, "stem_channels": 16, "base_channels": 8}
BLOCKS = ("block_size", "block_size_spatial")
CHANNELS = {"decode_head": 256, "auxiliary_head": 128}


@pytest.fixture
def converted(converted_backbone):
    """Return a function that makes and converts a backbone with a deep stem; returns weights and file."""
    options = {"depths": R50, "pattern": "hybrid", "channels": [8, 16, 32, 64], "stem_type": "deep", "stem_width": 8}

    def make(ndpp):
        content, file = converted_backbone("small50c_hybrid", options, ndpp, "mmseg")
        return content["state_dict"], file

    return make


@pytest.fixture
def warnings_of_loading(collect_warnings):
    """Collect what MMEngine warns of."""
    from mmengine.logging import MMLogger

    return collect_warnings(MMLogger.get_current_instance())


@pytest.mark.parametrize("ndpp", [None, WhiteningConfig.fast()], ids=["bn", "ndpp"])
def test_every_key_of_the_backbone_is_loaded(converted, model_config, same_weights, warnings_of_loading, ndpp):
    from mmengine.registry import MODELS, init_default_scope

    import ndpp_dense.integrations.mmseg  # noqa: F401

    init_default_scope("mmseg")
    entries, file = converted(ndpp)
    model_config["backbone"].update(BACKBONE, init_cfg={"type": "Pretrained", "checkpoint": str(file)})
    for head, channels in CHANNELS.items():
        model_config[head]["in_channels"] = channels
    if ndpp is None:
        model_config["type"] = "EncoderDecoder"
        del model_config["ndpp"]
    model = MODELS.build(model_config)
    model.init_weights()
    assert warnings_of_loading == []
    assert same_weights(model.backbone.state_dict(), entries) == []


@pytest.mark.slow
def test_a_segmentor_trains_from_them(converted, train):
    file = converted(WhiteningConfig.fast())[1]
    options = {f"model__backbone__{name}": value for name, value in BACKBONE.items()}
    options |= {f"model__{head}__in_channels": channels for head, channels in CHANNELS.items()}
    # The demo has smaller blocks than the preset.
    options |= {f"model__ndpp__{name}": getattr(WhiteningConfig.fast(), name) for name in BLOCKS}
    # As on the command line: --cfg-options model.backbone.init_cfg.type=Pretrained ...
    options |= {"model__backbone__init_cfg__type": "Pretrained", "model__backbone__init_cfg__checkpoint": str(file)}
    runner = train(**options, train_cfg__max_iters=1, train_cfg__val_interval=2)
    text = "".join(log.read_text() for log in Path(runner.work_dir).rglob("*.log"))
    assert f"from path: {file}" in text
    assert "do not match exactly" not in text
    assert runner.iter == 1
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
