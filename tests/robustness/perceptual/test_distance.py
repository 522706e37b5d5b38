import pytest
import torch
from torch import nn

from ndpp_dense.robustness.perceptual import (
    ActivationDistance,
    GapDistance,
    MeanGapDistance,
    StageMaps,
    gap_distance,
    open_stages,
)


@pytest.fixture
def images():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_distance_is_the_root_of_the_weighted_mean_square():
    a, b, w = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.5, 0.0, 3.0]]), torch.tensor([2.0, 0.5, 7.0])
    expected = ((4 * 0.25 + 0.25 * 4 + 0) / 3) ** 0.5
    torch.testing.assert_close(gap_distance(a, b, w), torch.tensor([expected]))
    torch.testing.assert_close(gap_distance(a, b), torch.tensor([((0.25 + 4) / 3) ** 0.5]))


def test_averages_are_those_of_every_stage(stages, images):
    distance = GapDistance(stages)
    maps = stages.model((images - stages.mean) / stages.std).values()
    expected = torch.cat([stage.flatten(2).mean(2) for stage in maps], dim=1)
    torch.testing.assert_close(distance.features(images), expected)
    assert stages.channels == (5, 7)
    assert distance.weight.shape == (12,)


def test_equal_images_are_at_zero_with_a_finite_gradient(stages, images):
    distance = GapDistance(stages)
    moving = images.clone().requires_grad_()
    found = distance(moving, images)
    found.sum().backward()
    assert found.tolist() == [0, 0, 0, 0]
    assert torch.equal(moving.grad, torch.zeros_like(images))
    assert torch.equal(distance.weight.grad, torch.zeros(12))


def test_gradients_reach_images_and_weights_and_not_the_backbone(stages, images):
    distance = GapDistance(stages)
    moving = images.clone().requires_grad_()
    distance(moving, images.flip(0)).sum().backward()
    assert moving.grad.abs().sum() > 0
    assert distance.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in stages.model.parameters())


def test_one_reference_stands_for_all(stages, images):
    for distance in (GapDistance(stages), ActivationDistance(stages)):
        together = distance(images[:1], images)
        one_by_one = torch.cat([distance(images[:1], image[None]) for image in images])
        torch.testing.assert_close(together, one_by_one)
        with pytest.raises(ValueError, match="2 and 3 images"):
            distance(images[:2], images[:3])


def test_training_mode_leaves_the_backbone_as_it_is(stages, images):
    distance = GapDistance(stages)
    before = distance(images, images.flip(3))
    distance.train()
    assert not stages.model.training
    assert torch.equal(distance(images, images.flip(3)), before)


def test_circular_shifts_by_the_stride_do_not_count_and_shifts_by_less_do(circular_stages, images):
    gap, in_place = GapDistance(circular_stages), ActivationDistance(circular_stages)
    whole, part = images.roll(8, dims=3), images.roll(3, dims=3)
    assert gap(images, whole).max() < 1e-6
    assert gap(images, part).min() > 1e-3  # aliasing
    assert in_place(images, whole).min() > 1e-2  # compares in place


@pytest.mark.parametrize("name", ["vgg16_multi_gap", "vgg16_gap"])
def test_vgg_has_1472_averages(name):
    torch.manual_seed(0)
    stages = open_stages(name)
    assert sum(stages.channels) == 1472
    assert stages.min_size == 32


def test_timm_classifiers_and_their_features_are_the_same():
    timm = pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")
    classifier = timm.create_model("resnet18", num_classes=3)
    features = timm.create_model("resnet18", features_only=True)
    features.load_state_dict(classifier.state_dict(), strict=False)
    a, b = torch.rand(2, 1, 3, 64, 64)
    first, second = (GapDistance(StageMaps(model))(a, b) for model in (classifier, features))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.rand(3, 32, 32), r"shape \(3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "uint8"),
        (torch.rand(1, 3, 3, 40), "3 x 40 pixels, at least 4 x 4"),
        (torch.rand(1, 3, 32, 32) * 2 - 1, r"\(x \+ 1\) / 2"),
        (torch.rand(1, 3, 32, 32) * 255, "Divide bytes by 255"),
        (torch.full((1, 3, 32, 32), float("nan")), "values of nan"),
    ],
)
def test_wrong_images_are_refused_in_words(stages, wrong, said):
    with pytest.raises(ValueError, match=said):
        GapDistance(stages)(wrong, wrong)


def test_a_model_without_maps_is_refused():
    with pytest.raises(ValueError, match="Flatten returns no maps"):
        StageMaps(nn.Flatten())


def test_the_mean_over_batches_is_the_mean_over_pairs(stages, images):
    distance = GapDistance(stages)
    expected = distance(images, images.flip(0)).mean()
    metric = MeanGapDistance(distance)
    with pytest.raises(ValueError, match="No pairs yet"):
        metric.compute()
    metric.update(images[:1], images.flip(0)[:1])
    own = metric(images[1:], images.flip(0)[1:])
    torch.testing.assert_close(metric.compute(), expected.detach())
    torch.testing.assert_close(own, distance(images[1:], images.flip(0)[1:]).mean().detach())
    metric.reset()
    metric.update(images, images)
    assert metric.compute() == 0


def test_weights_are_kept_and_those_of_another_backbone_refused(stages, images, tmp_path):
    first, second = GapDistance(stages), GapDistance(stages)
    with torch.no_grad():
        first.weight.copy_(torch.rand(12))
    first.save_weight(tmp_path / "w.safetensors", model="two stages")
    second.load_weight(tmp_path / "w.safetensors")
    assert torch.equal(first(images, images.flip(0)), second(images, images.flip(0)))
    other = GapDistance(stages)
    other.weight = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"shape \(12,\).*needs \(3,\)"):
        other.load_weight(tmp_path / "w.safetensors")
    with pytest.raises(FileNotFoundError, match="no file"):
        other.load_weight(tmp_path / "absent.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="holds no weights of a distance"):
        other.load_weight(tmp_path / "w.safetensors")


def test_a_checkpoint_comes_without_its_classifier_and_must_fit(tmp_path):
    from ndpp_dense import create_backbone

    torch.manual_seed(0)
    model = create_backbone("resnet18", 5)
    torch.save({"model": model.state_dict()}, tmp_path / "run.pth")
    stages = open_stages("resnet18", tmp_path / "run.pth")
    assert torch.equal(stages.model.conv1.weight, model.conv1.weight)
    with pytest.raises(ValueError, match="does not fit resnet26"):
        open_stages("resnet26", tmp_path / "run.pth")
    with pytest.raises(FileNotFoundError, match="absent.pth not found"):
        open_stages("resnet18", tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="resnet19"):
        open_stages("resnet19")


def test_a_config_names_a_backbone_with_whitening(tmp_path):
    stages = open_stages("resnet18_ndpp_small")
    found = GapDistance(stages)(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))
    assert found > 0
    assert any(type(module).__name__ == "NDConv2d" for module in stages.modules())


def test_a_flipped_bit_in_weights_is_seen(stages, tmp_path):
    GapDistance(stages).save_weight(tmp_path / "w.safetensors", model="a")
    content = bytearray((tmp_path / "w.safetensors").read_bytes())
    content[-3] ^= 1
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="damaged: its weights are not those"):
        GapDistance(stages).load_weight(tmp_path / "w.safetensors")
