"""Conversion of real models: what is replaced and kept, and that the function is the same before training."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from ndpp_dense import NDConv2d, NDConvTranspose2d, NDLinear, WhiteningConfig, convert_to_ndpp, nd_layers

PLAIN = WhiteningConfig(local_scale="none")  # before any step D = I and the mean is 0: the plain layer
MODELS = {  # convolutions and linear layers, norms dropped, norms kept
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=7), 21, 20, []),
    "timm resnet18": (lambda: timm.create_model("resnet18", num_classes=7, zero_init_last=False), 21, 20, []),
    "densenet121": (lambda: torchvision.models.densenet121(num_classes=7), 121, 120, ["features.norm5"]),
    "vgg11_bn": (lambda: torchvision.models.vgg11_bn(num_classes=7, dropout=0.0), 11, 8, []),
}


@pytest.fixture(scope="module", params=MODELS)
def converted(request):
    """A model with its norms taken out by hand, the converted model, the report and the expected numbers."""
    make, layers, dropped, kept = MODELS[request.param]
    torch.manual_seed(0)
    if request.param == "vgg11_bn":  # its 120 million weights at 7x7 features are not needed here
        model = make()
        model.avgpool, model.classifier[0] = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 64)
        model.classifier[3], model.classifier[6] = nn.Linear(64, 64), nn.Linear(64, 7)
    else:
        model = make()
    bare = copy.deepcopy(model)
    for name, module in list(bare.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and name not in kept:
            drop = [m for m in (getattr(module, "drop", None), getattr(module, "act", None)) if m is not None]
            parent, _, child = name.rpartition(".")
            setattr(bare.get_submodule(parent), child, nn.Sequential(*drop))
    before = dict(model.named_parameters())
    report = convert_to_ndpp(model, PLAIN)
    return bare, model, report, before, (layers, dropped, kept)


def test_counts(converted):
    _, model, report, _, (layers, dropped, kept) = converted
    assert len(report.converted) == layers == len(list(nd_layers(model)))
    assert report.left == []
    assert len(report.dropped_norms) == dropped
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == kept == [record.name for record in report.records if record.action == "kept"]
    assert report.summary().startswith(f"{layers} layers converted to ND++, 0 left plain; {dropped} norms dropped")


def test_before_training_it_is_the_model_without_norms(converted):
    bare, model, report, *_ = converted
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), bare.eval()(x), rtol=1e-3, atol=1e-4)
    report.verify(model, x)


def test_weights_are_the_same_objects_and_every_layer_has_a_bias(converted):
    _, model, _, before, _ = converted
    for name, layer in nd_layers(model):
        assert layer.weight is before[f"{name}.weight"]
        assert layer.bias is not None
        assert layer.bias is before.get(f"{name}.bias", layer.bias)
        assert layer.bias.requires_grad


def test_one_training_step_reaches_every_parameter(converted):
    _, model, *_ = converted
    model.train()(torch.randn(4, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(layer.whitening.running_weight > 0 for _, layer in nd_layers(model))
    model.zero_grad()


def test_all_three_kinds_keep_mode_device_type_and_freezing():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(8, 4, 2, 2, bias=False), nn.Flatten(), nn.Linear(64, 3)
    )
    model[0].requires_grad_(False)
    model.double()
    model[3].eval()
    convert_to_ndpp(model)
    assert [type(m) for m in model] == [NDConv2d, NDConvTranspose2d, nn.Flatten, NDLinear]
    assert [m.training for m in model] == [True, True, True, False]
    assert not model[0].weight.requires_grad
    assert not model[0].bias.requires_grad
    assert model[1].bias.dtype == model[1].whitening.running_mean.dtype == torch.float64
    assert model(torch.randn(2, 4, 4, 4, dtype=torch.float64)).shape == (2, 3)


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(8), nn.SyncBatchNorm(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8)],
    ids=lambda n: type(n).__name__,
)
def test_every_norm_of_a_convolution_goes(norm):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), norm, nn.ReLU())
    report = convert_to_ndpp(model)
    assert report.dropped_norms == ["1"]
    assert isinstance(model[1], nn.Identity)


def test_the_norm_of_a_layer_that_is_left_stays():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    report = convert_to_ndpp(model, rules={"0": False})
    assert isinstance(model[1], nn.BatchNorm2d)
    assert report.dropped_norms == ["3"]


def test_a_norm_before_its_layer_goes_with_it():
    model = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3))
    assert convert_to_ndpp(model).dropped_norms == ["0"]


@pytest.mark.parametrize("own_child", [False, True], ids=["behind", "inside"])
def test_a_layer_starts_at_zero_where_its_norm_does(own_child):
    norm, other = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
    nn.init.zeros_(norm.weight)
    nn.init.constant_(norm.bias, 3)
    first, second = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
    if own_child:  # as Detectron2's convolutions hold theirs
        first.norm, first.activation, second.norm, second.activation = norm, None, other, None
        model = nn.Sequential(first, second)
    else:
        model = nn.Sequential(first, norm, second, other)
    report = convert_to_ndpp(model)
    layers = [layer for _, layer in nd_layers(model)]
    assert not layers[0].weight.any()
    assert torch.equal(layers[0].bias, torch.full((8,), 3.0))
    assert layers[1].weight.any()
    assert [record.stands_in for record in report.records if record.action == "dropped"] == report.converted


def test_a_shared_layer_is_converted_once_and_stays_shared():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first
            self.tied = nn.Linear(4, 4)
            self.tied.weight = self.first.weight

        def forward(self, x):
            return self.tied(self.second(self.first(x)))

    model = Twice()
    weight = model.first.weight
    report = convert_to_ndpp(model)
    assert report.converted == ["first", "tied"]
    assert model.first is model.second
    assert isinstance(model.first, NDLinear)
    assert model.tied.weight is model.first.weight is weight


def test_layers_that_cannot_be_converted_are_left_with_the_reason():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return super().forward(x - x.mean())

    class Renamed(nn.Conv2d):
        pass

    model = nn.ModuleDict(
        {
            "own": Standardised(3, 4, 3),
            "renamed": Renamed(3, 4, 3),
            "odd": nn.ConvTranspose2d(4, 4, 3, 2),
            "parametrised": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
            "hooked": nn.utils.spectral_norm(nn.Linear(4, 4)),
            "lazy": nn.LazyLinear(4),
        }
    )
    report = convert_to_ndpp(model)
    reasons = {record.name: record.reason for record in report.records}
    assert report.converted == ["renamed"]
    assert reasons["own"].endswith("Standardised has a forward of its own")
    assert "not a multiple of stride" in reasons["odd"]
    assert reasons["parametrised"] == "parametrised weight"
    assert reasons["hooked"] == "its weight is computed by a hook"
    assert "run the model once" in reasons["lazy"]


def test_detectron2_style_layers_lose_their_norm_and_keep_their_activation():
    class Conv2d(nn.Conv2d):  # as in detectron2.layers.wrappers
        def __init__(self, *args, norm=None, activation=None, **kwargs):
            super().__init__(*args, **kwargs)
            self.norm, self.activation = norm, activation

        def forward(self, x):
            x = super().forward(x)
            x = x if self.norm is None else self.norm(x)
            return x if self.activation is None else self.activation(x)

    conv = Conv2d(4, 4, 3, bias=False, norm=nn.BatchNorm2d(4), activation=torch.relu)
    model = nn.Sequential(conv)
    report = convert_to_ndpp(model, PLAIN)
    assert report.dropped_norms == ["0.norm"]
    assert set(dict(model.named_parameters())) == {"0.weight", "0.bias"}
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(model.eval()(x), nn.functional.conv2d(x, conv.weight).relu())


@pytest.mark.parametrize("config", ["fast", {"eps": 1.0}, WhiteningConfig])
def test_another_configuration_is_refused_with_an_example(config):
    with pytest.raises(ValueError, match=r"takes a WhiteningConfig, not .* For example"):
        convert_to_ndpp(nn.Sequential(nn.Linear(3, 3)), config)


@pytest.mark.parametrize("model", [nn.Linear, {"a": 1}])
def test_another_model_is_refused_with_an_example(model):
    with pytest.raises(ValueError, match=r"takes a module, not .* For example"):
        convert_to_ndpp(model)


@pytest.mark.parametrize("make", [lambda: nn.Linear(3, 3), lambda: nn.Conv2d(3, 3, 1)])
def test_a_lone_layer_is_refused(make):
    with pytest.raises(ValueError, match="lone .* cannot be replaced in place: use NDLinear.from_linear"):
        convert_to_ndpp(make())


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.ReLU()), nn.BatchNorm2d(3), nn.ModuleDict({"cls_score": nn.Linear(3, 3)})], ids=repr
)
def test_nothing_converted_is_an_error(model):
    with pytest.raises(ValueError, match="Nothing was converted"):
        convert_to_ndpp(model)


def test_a_second_conversion_is_refused_and_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 3))
    convert_to_ndpp(model)
    layer = model[0]
    with pytest.raises(ValueError, match="has 1 ND.. layers already"):
        convert_to_ndpp(model)
    assert model[0] is layer


def test_mask_rcnn():
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    report = convert_to_ndpp(model, WhiteningConfig.fast("coco"))
    left = set(report.left)
    assert {"rpn.head.conv.0.0", "rpn.head.cls_logits", "rpn.head.bbox_pred"} <= left
    assert {"roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"} <= left
    assert "roi_heads.mask_predictor.mask_fcn_logits" in left
    assert len(left) == 6
    assert "backbone.body.layer4.2.conv3" in report.converted
    assert {"roi_heads.box_head.fc6", "roi_heads.mask_head.0.0", "roi_heads.mask_predictor.conv5_mask"} <= set(
        report.converted
    )
    assert not any(type(m).__name__ == "FrozenBatchNorm2d" for m in model.modules())


@pytest.mark.parametrize("lazy", [nn.LazyConv1d(4, 1), nn.LazyConv2d(4, 1), nn.LazyConv3d(4, 1), nn.LazyLinear(4)])
def test_layers_whose_shape_is_not_known_yet_are_left_with_the_way_out(lazy):
    model = nn.Sequential(lazy, nn.Linear(4, 4), nn.LazyBatchNorm1d())
    reasons = {record.name: record.reason for record in convert_to_ndpp(model).records}
    assert reasons["0"] == "lazy: run the model once before conversion"
    with pytest.raises(ValueError, match="Nothing was converted:(.|\n)*run the model once"):
        convert_to_ndpp(nn.Sequential(lazy))
