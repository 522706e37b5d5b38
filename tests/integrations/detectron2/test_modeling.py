"""Conversion inside Detectron2: what is converted, what is left, and that all of it runs."""

import pytest
import torch
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from ndpp_dense import NDConv2d, NDConvTranspose2d, NDLinear, WhiteningConfig, convert_to_ndpp, nd_layers
from ndpp_dense.integrations.detectron2 import add_ndpp_config, to_ndpp

from detectron2 import model_zoo  # isort: skip  (sources of Detectron2 import it only with the integration's help)

pytestmark = pytest.mark.detectron2
ZOO_CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"


def make_cfg(*overrides):
    cfg = add_ndpp_config(get_cfg())
    cfg.merge_from_file(model_zoo.get_config_file(ZOO_CONFIG))
    cfg.MODEL.META_ARCHITECTURE = "NDPPModel"
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
    return cfg


@pytest.fixture(scope="module")
def mask_rcnn():
    return build_model(make_cfg())


def batch(*object_counts):
    """Images of 64 pixels with that many objects each."""
    records = []
    for count in object_counts:
        instances = Instances((64, 64))
        corners = torch.tensor([[8.0, 8.0, 40.0, 48.0]]).repeat(count, 1)
        instances.gt_boxes = Boxes(corners)
        instances.gt_classes = torch.zeros(count, dtype=torch.long)
        masks = torch.zeros(count, 64, 64, dtype=torch.bool)
        masks[:, 10:40, 10:40] = True
        instances.gt_masks = BitMasks(masks)
        records.append({"image": torch.randint(0, 256, (3, 64, 64)).float(), "instances": instances})
    return records


def test_backbone_fpn_box_and_mask_head_are_converted_and_run(mask_rcnn):
    report = mask_rcnn.ndpp_report
    assert len(report.converted) == len(list(nd_layers(mask_rcnn))) == 53 + 8 + 2 + 5
    assert sorted(name.rpartition(".")[2] for name in report.left) == [
        *("anchor_deltas", "bbox_pred", "cls_score", "conv", "objectness_logits", "predictor")
    ]
    assert isinstance(mask_rcnn.roi_heads.mask_head.deconv, NDConvTranspose2d)
    assert isinstance(mask_rcnn.roi_heads.box_head.fc1, NDLinear)
    report.verify(mask_rcnn, [{"image": torch.zeros(3, 64, 64)}])


def test_the_lists_that_fpn_runs_from_hold_the_converted_layers(mask_rcnn):
    fpn = mask_rcnn.backbone
    assert all(isinstance(conv, NDConv2d) for conv in [*fpn.lateral_convs, *fpn.output_convs])
    assert fpn.lateral_convs[0] in [fpn.fpn_lateral5, fpn.fpn_lateral2]


def test_no_norm_is_left_and_every_layer_has_a_bias(mask_rcnn):
    assert not [name for name, _ in mask_rcnn.named_modules() if "norm" in name]
    assert all(layer.bias is not None for _, layer in nd_layers(mask_rcnn))


def test_activation_of_a_converted_conv_is_kept(mask_rcnn):
    assert mask_rcnn.roi_heads.mask_head.mask_fcn1.activation is not None
    assert mask_rcnn.backbone.fpn_lateral2.activation is None


def test_frozen_stages_do_not_move():
    model = build_model(make_cfg("MODEL.BACKBONE.FREEZE_AT", 2)).train()
    before = {k: v.clone() for k, v in model.state_dict().items() if ".stem." in k or "res2" in k}
    with EventStorage():
        sum(model(batch(1, 2)).values()).backward()
    after = model.state_dict()
    assert before
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert model.backbone.bottom_up.stem.conv1.whitening.frozen
    assert not model.backbone.bottom_up.res3[0].conv1.whitening.frozen
    assert model.backbone.bottom_up.res3[0].conv1.whitening.running_weight > 0


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_batch_without_objects_trains(preset):
    overrides = ["MODEL.NDPP.PRESET", preset, "MODEL.NDPP.BLOCK_SIZE_SPATIAL", 8]
    model = build_model(make_cfg(*overrides, "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)).train()
    mask_state = model.roi_heads.mask_head.mask_fcn1.whitening
    with EventStorage():
        losses = model(batch(0, 0))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert mask_state.running_weight == 0  # no region reached the mask head
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_backbone_alone():
    cfg = make_cfg("MODEL.BACKBONE.NAME", "build_ndpp_resnet_fpn_backbone")
    backbone = build_backbone(cfg)
    assert len(list(nd_layers(backbone))) == 61
    features = backbone(torch.rand(1, 3, 64, 64))
    assert {name: f.shape[-1] for name, f in features.items()} == {"p2": 16, "p3": 8, "p4": 4, "p5": 2, "p6": 1}


@pytest.mark.parametrize("backbone", ["build_resnet_fpn_backbone", "build_ndpp_resnet_fpn_backbone"])
@pytest.mark.parametrize("zero", [True, False])
def test_residual_branches_start_at_zero_where_they_train(backbone, zero):
    cfg = make_cfg("MODEL.NDPP.ZERO_INIT_RESIDUAL", str(zero), "MODEL.BACKBONE.NAME", backbone)
    model = build_model(cfg).backbone if backbone == "build_resnet_fpn_backbone" else build_backbone(cfg)
    started = {name for name, layer in nd_layers(model.bottom_up) if not layer.weight.any()}
    blocks = {"res3": 4, "res4": 6, "res5": 3}  # res2 is frozen
    expected = {f"{stage}.{block}.conv3" for stage, count in blocks.items() for block in range(count)}
    assert started == (expected if zero else set())


def test_lazy_config_converts():
    model = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py").model
    lazy = LazyCall(to_ndpp)(
        model=model, config=LazyCall(WhiteningConfig.paper)(task="coco"), rules={"backbone.bottom_up.stem.*": False}
    )
    built = instantiate(lazy)
    assert "backbone.bottom_up.stem.conv1" in built.ndpp_report.left
    assert built.backbone.bottom_up.res2[0].conv1.config == WhiteningConfig.paper("coco")


def test_a_layer_that_never_runs_is_found():
    cfg = make_cfg("MODEL.META_ARCHITECTURE", "GeneralizedRCNN")
    model = build_model(cfg)
    kept = model.backbone.output_convs
    report = convert_to_ndpp(model)
    model.backbone.output_convs = [torch.nn.Conv2d(256, 256, 3, padding=1) for _ in kept]
    with pytest.raises(RuntimeError, match=r"4 of 68.*fpn_output"):
        report.verify(model, [{"image": torch.zeros(3, 64, 64)}])


ZOO = {  # and the layers that must stay
    "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml": ("cls_score", "bbox_pred"),  # wants proposals
    "COCO-Detection/retinanet_R_50_FPN_1x.yaml": ("cls_subnet.0", "bbox_subnet.6", "cls_score"),
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml": ("score_lowres", "cls_score"),
}


@pytest.mark.parametrize("config", ZOO, ids=lambda name: name.split("/")[1].partition("_R_")[0])
def test_prediction_layers_and_shared_towers_of_the_zoo_are_left(config, caplog):
    cfg = model_zoo.get_config(config)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    torch.manual_seed(0)  # what is detected by random weights decides whether the heads run
    report = to_ndpp(build_model(cfg)).ndpp_report
    for ending in ZOO[config]:
        assert any(name.endswith(f".{ending}") for name in report.left)
        assert not any(name.endswith(f".{ending}") for name in report.converted)
    assert ("does not run on the example" in caplog.text) == ("fast_rcnn" in config)
