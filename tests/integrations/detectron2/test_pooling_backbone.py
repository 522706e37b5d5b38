"""Pooling backbones in Detectron2: chosen by a config, frozen, dilated, trained and converted like its own."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from ndpp_dense import nd_layers
from ndpp_dense.config_files import find_config
from ndpp_dense.integrations.detectron2 import add_ndpp_config
from ndpp_dense.layers.pooling import DeformablePool3x3, MaxPool3x3

pytestmark = pytest.mark.detectron2
SMALL = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 8]
SMALL += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 32]
SMALL += ["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16]


def make_cfg(config, *overrides):
    cfg = add_ndpp_config(get_cfg())
    cfg.merge_from_file(str(find_config(f"detectron2/{config}")))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
    return cfg


def backbone(*overrides):
    torch.manual_seed(0)
    return build_backbone(make_cfg("faster_rcnn_hybrid", *SMALL, *overrides))


# The published sizes are for 91 classes with a box for the background too; Detectron2 has 81 scores and 80 boxes.
OTHER_CLASSES = 1025 * (91 - 81 + 4 * (91 - 80)) / 1e6


@pytest.mark.parametrize(("pattern", "params"), [("BBBB", 41.808), ("hybrid", 33.582), ("deform_max", 34.282)])
def test_faster_rcnn_has_the_published_size(pattern, params):
    cfg = make_cfg("faster_rcnn_hybrid", "MODEL.POOLING.PATTERN", pattern, "MODEL.DEVICE", "meta")
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(params - OTHER_CLASSES, abs=1e-3)


@pytest.mark.parametrize("pattern", ["max", "hybrid", "deform_avg"])
def test_pyramid_sizes(pattern):
    net = backbone("MODEL.POOLING.PATTERN", pattern)
    features = net(torch.randn(1, 3, 128, 96))
    strides = {name: spec.stride for name, spec in net.output_shape().items()}
    assert strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    for name, stride in strides.items():
        assert features[name].shape == (1, 16, -(-128 // stride), -(-96 // stride))
    sum(f.square().mean() for f in features.values()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_pools_have_no_norm():
    net = backbone().bottom_up
    assert sum(isinstance(m, MaxPool3x3) for m in net.modules()) == 13
    assert [name for name, _ in net.res3.named_children() if hasattr(net.res3[int(name)].conv2, "conv")] == ["0"]
    assert not [name for name, _ in net.named_parameters() if ".1.conv2." in name]


def test_frozen_stages_and_frozen_norms():
    net = backbone("MODEL.BACKBONE.FREEZE_AT", 3, "MODEL.POOLING.PATTERN", "deform_max").bottom_up
    frozen = {name.partition(".")[0] for name, p in net.named_parameters() if not p.requires_grad}
    trained = {name.partition(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert (frozen, trained) == ({"stem", "res2", "res3"}, {"res4", "res5"})
    assert isinstance(net.res3[0].conv2.conv.norm, FrozenBatchNorm2d)
    assert isinstance(net.res2[0].conv2, DeformablePool3x3)
    everywhere = backbone("MODEL.RESNETS.NORM", "FrozenBN").bottom_up
    assert not [m for m in everywhere.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_a_dilated_last_stage_has_the_same_weights():
    alone = ["MODEL.BACKBONE.NAME", "build_pooling_resnet_backbone"]  # a pyramid needs four strides
    plain, dilated = backbone(*alone), backbone(*alone, "MODEL.RESNETS.RES5_DILATION", 2)
    dilated.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 70, 90)
    assert [dilated.eval()(x)[f"res{i}"].shape[2:] for i in (4, 5)] == [(5, 6), (5, 6)]
    assert plain.eval()(x)["res5"].shape[2:] == (3, 3)


def test_all_faults_are_named_together():
    with pytest.raises(ValueError, match=r"(?s)DEPTH = 18 .*50, 101, 152.*STRIDE_IN_1X1 = True.*deform_max"):
        backbone(
            *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.STRIDE_IN_1X1", True),
            *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True]),
        )
    with pytest.raises(ValueError, match="Did you mean 'hybrid'"):
        backbone("MODEL.POOLING.PATTERN", "hybird")


def image_with_object():
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 48.0]]))
    instances.gt_classes = torch.zeros(1, dtype=torch.long)
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, 8:48, 8:40] = True
    instances.gt_masks = BitMasks(masks)
    return {"image": torch.randint(0, 256, (3, 64, 64)).float(), "instances": instances}


def test_the_nd_config_trains():
    torch.manual_seed(0)
    model = build_model(make_cfg("mask_rcnn_hybrid_ndpp", *SMALL)).train()
    converted = {name for name, _ in nd_layers(model.backbone.bottom_up)}
    assert "res3.0.conv2.conv" in converted
    assert len(converted) == 53 - 13
    with EventStorage():
        sum(model([image_with_object(), image_with_object()]).values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_a_plain_stem_takes_any_number_of_channels():
    from ndpp_dense.integrations.detectron2 import build_pooling_resnet_backbone

    net = build_pooling_resnet_backbone(make_cfg("faster_rcnn_hybrid", *SMALL), ShapeSpec(channels=4))
    assert net.stem.conv1.in_channels == 4
