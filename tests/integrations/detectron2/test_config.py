"""The config node, and every config that is shipped."""

from dataclasses import fields
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from ndpp_dense import WhiteningConfig
from ndpp_dense.integrations.detectron2 import add_ndpp_config, read_options

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "detectron2"
pytestmark = pytest.mark.detectron2


@pytest.fixture
def cfg():
    return add_ndpp_config(get_cfg())


def test_every_field_has_a_key(cfg):
    assert {field.name.upper() for field in fields(WhiteningConfig)} <= set(cfg.MODEL.NDPP)


def test_preset_then_overrides(cfg):
    cfg.merge_from_list(["MODEL.NDPP.PRESET", "paper", "MODEL.NDPP.EPS", 0.5, "MODEL.NDPP.SHARED_BLOCKS", False])
    assert read_options(cfg).config == WhiteningConfig.paper("coco").override({"eps": 0.5, "shared_blocks": False})


def test_momentum_follows_the_batch(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 4
    assert read_options(cfg).config == WhiteningConfig.fast("coco")
    cfg.SOLVER.IMS_PER_BATCH = 512
    assert read_options(cfg).config == WhiteningConfig.fast("coco").for_batch(512)
    cfg.MODEL.NDPP.MOMENTUM = 0.2
    assert read_options(cfg).config.momentum == 0.2


def test_schedule_from_the_command_line(cfg):
    cfg.merge_from_list(["MODEL.NDPP.SCHEDULE", "every=4"])
    assert read_options(cfg).config.period == 4


def test_rules_come_from_a_file(cfg, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text('VERSION: 2\nMODEL: {NDPP: {RULES: {"backbone.*.stem.*": False, "*.fc1": {EPS: 0.5}}}}')
    cfg.merge_from_file(str(file))
    assert read_options(cfg).rules == {"backbone.*.stem.*": False, "*.fc1": {"EPS": 0.5}}


def test_unknown_preset_names_the_nearest(cfg):
    cfg.MODEL.NDPP.PRESET = "papr"
    with pytest.raises(ValueError, match="'papr'.*Did you mean 'paper'.*'fast'"):
        read_options(cfg)


def test_invalid_value_names_the_choices(cfg):
    cfg.merge_from_list(["MODEL.NDPP.STATISTICS", "bach", "MODEL.NDPP.EPS", -1.0])
    with pytest.raises(ValueError, match=r"(?s)statistics = 'bach'.*'batch', 'ema'.*eps = -1.0"):
        read_options(cfg)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_config(cfg, path):
    cfg.merge_from_file(str(path))
    assert read_options(cfg).config
    assert max(cfg.SOLVER.STEPS, default=0) < cfg.SOLVER.MAX_ITER
    assert ("ndpp" in path.stem) == (cfg.MODEL.META_ARCHITECTURE == "NDPPModel")
    assert len(path.read_text().splitlines()) <= 40


@pytest.mark.parametrize("batch", [128, 256, 512])
def test_large_batch_configs_see_as_many_images_as_1x(cfg, batch):
    cfg.merge_from_file(str(CONFIGS / f"mask_rcnn_ndpp_bs{batch}.yaml"))
    assert batch == cfg.SOLVER.IMS_PER_BATCH
    assert cfg.SOLVER.MAX_ITER * batch == pytest.approx(90000 * 16, rel=1e-3)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WARMUP_ITERS) == (0.1, 0.9, 0)
