"""Pooling ResNets against their definition, written out with PyTorch's functions."""

import copy

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("timm", reason="the backbones are timm's: extra 'pretrain' is not installed")

from ndpp_dense import create_backbone  # noqa: E402
from ndpp_dense.backbones import resnet  # noqa: E402
from ndpp_dense.layers.stage_pattern import STAGE_WORDS  # noqa: E402


def normalised(x, weights, conv, norm, **geometry):
    y = F.conv2d(x, weights[f"{conv}.weight"], **geometry)
    names = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(y, *(weights[f"{norm}.{name}"] for name in names))


def hybrid(x, weights, depths):
    """PfLayer's hybrid network as far as the last stage."""
    x = F.max_pool2d(normalised(x, weights, "conv1", "bn1", stride=2, padding=3).relu(), 3, 2, 1)
    for stage, depth in enumerate(depths, 1):
        for index in range(depth):
            block, shortcut = f"layer{stage}.{index}", x
            stride = 2 if stage > 1 and index == 0 else 1
            if index == 0:
                names = f"{block}.downsample.0", f"{block}.downsample.1"
                shortcut = normalised(x, weights, *names, stride=stride)
            y = normalised(x, weights, f"{block}.conv1", f"{block}.bn1").relu()
            if stride == 2:
                y = F.avg_pool2d(y, 2, 2, ceil_mode=True)
                y = normalised(y, weights, f"{block}.conv2.conv", f"{block}.bn2", padding=1).relu()
            else:
                y = F.max_pool2d(y, 3, 1, 1)
            x = (normalised(y, weights, f"{block}.conv3", f"{block}.bn3") + shortcut).relu()
    return x


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_hybrid_is_as_defined(layout):
    torch.manual_seed(0)
    model = create_backbone("resnet26_hybrid").eval()
    for name, value in model.state_dict().items():
        if name.endswith(("bn3.weight", "running_var")):  # zero, or one, to begin with
            value.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 70, 64)
    with torch.no_grad():
        expected = hybrid(x, model.state_dict(), (2, 2, 2, 2))
        model = model.to(memory_format=layout)
        torch.testing.assert_close(model.forward_features(x.to(memory_format=layout)), expected, rtol=1e-4, atol=1e-4)


def test_a_plain_pattern_is_timms_resnet_with_torchvisions_names():
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    torch.manual_seed(0)
    ours = create_backbone("resnet50").eval()
    theirs = torchvision.models.resnet50().eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("name", "params"), [("resnet50", 41.808), ("resnet50_hybrid", 33.582), ("resnet50_deform_max", 34.282)]
)
def test_size_of_torchvisions_faster_rcnn(name, params):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    with torch.device("meta"):
        layers = {f"layer{stage}": str(stage - 1) for stage in range(1, 5)}
        pyramid = BackboneWithFPN(create_backbone(name), layers, [256, 512, 1024, 2048], 256)
        detector = FasterRCNN(pyramid, num_classes=91)
    assert sum(p.numel() for p in detector.parameters()) / 1e6 == pytest.approx(params, abs=1e-3)


@pytest.mark.parametrize("pattern", [*STAGE_WORDS, "E/B", "max", "hybrid", "deform_max", "deform_avg"])
def test_every_pattern_builds_and_runs(pattern):
    with torch.device("meta"):
        model = resnet.build(10, (3, 4, 6, 3), pattern)
        model(torch.zeros(2, 3, 65, 97)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    if pattern in STAGE_WORDS:
        efficient = sum({"B": 0, "E": 1}[letter] * depth for letter, depth in zip(pattern, (3, 4, 6, 3), strict=True))
        assert sum(not list(block.bn2.parameters()) for block in blocks) == efficient


def test_training_in_both_layouts_is_the_same():
    torch.manual_seed(0)
    model = create_backbone("resnet26_hybrid", 3).double()
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    model(x).square().sum().backward()
    twin(x.to(memory_format=torch.channels_last)).square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
