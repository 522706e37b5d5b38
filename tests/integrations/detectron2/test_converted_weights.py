"""What ndpp convert writes is what a detector takes, key for key, and trains from."""

import logging

import pytest
import torch

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")

from ndpp_dense import WhiteningConfig  # noqa: E402
from ndpp_dense.backbones.cards import R50  # noqa: E402

pytestmark = pytest.mark.detectron2
SMALL = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.RESNETS.WIDTH_PER_GROUP", 8]
SMALL += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 32, "MODEL.RESNETS.STRIDE_IN_1X1", False]
FROZEN = ["MODEL.RESNETS.NORM", "FrozenBN"]
HYBRID = ["MODEL.META_ARCHITECTURE", "NDPPModel", "MODEL.BACKBONE.NAME", "build_pooling_resnet_fpn_backbone"]
HYBRID += ["MODEL.RESNETS.NORM", "BN"]


@pytest.fixture
def converted(converted_backbone):
    """Return a function that makes and converts a backbone; returns weights and file."""

    def make(name, ndpp=None):
        options = {"depths": R50, "pattern": "hybrid" if "hybrid" in name else "BBBB", "channels": [8, 16, 32, 64]}
        content, file = converted_backbone(name, options, ndpp, "detectron2")
        return content["model"], file

    return make


@pytest.fixture
def warnings_of_loading(collect_warnings):
    """Collect what the checkpointer warns of."""
    return collect_warnings(*map(logging.getLogger, ("fvcore.common.checkpoint", "detectron2.checkpoint")))


@pytest.mark.parametrize(
    ("name", "ndpp", "overrides"),
    [
        pytest.param("small50", None, FROZEN, id="frozen norms"),
        pytest.param("small50_hybrid", WhiteningConfig.fast(), HYBRID, id="hybrid nd"),
    ],
)
def test_every_key_of_the_backbone_is_loaded(converted, build_tiny, warnings_of_loading, name, ndpp, overrides):
    from detectron2.modeling import build_model

    from ndpp_dense.integrations.detectron2.checkpoint import NDCheckpointer

    entries, file = converted(name, ndpp)
    model = build_model(build_tiny(*SMALL, *overrides))
    NDCheckpointer(model).load(str(file))
    (missing,) = warnings_of_loading  # of the feature pyramid and the heads
    assert "fpn_lateral" in missing
    assert "bottom_up" not in missing
    loaded = model.backbone.bottom_up.state_dict()
    counters = {key for key in loaded if key.endswith("num_batches_tracked")}
    assert loaded.keys() - counters == entries.keys()
    assert [key for key in entries if not torch.equal(loaded[key], entries[key])] == []


def test_a_detector_trains_from_them(converted, run_tiny, warnings_of_loading):
    _, file = converted("small50_hybrid", WhiteningConfig.fast())
    trainer = run_tiny(*SMALL, *HYBRID, "MODEL.WEIGHTS", file, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()")
    (missing,) = warnings_of_loading
    assert "fpn_lateral" in missing
    assert "bottom_up" not in missing
    assert trainer.iter == 1
    assert all(value.isfinite().all() for value in trainer.net.state_dict().values())
