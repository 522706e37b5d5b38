"""Batches are changed on the device, and the loss takes what comes out."""

import pytest
import torch

from ndpp_dense.pretrain.batch_augment import BatchAugment, loss_function

CPU = torch.device("cpu")
IMAGES, TARGETS = torch.ones(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])


def test_nothing_is_done_by_default(tiny):
    images, targets = BatchAugment(tiny(), 3, CPU)(IMAGES.clone(), TARGETS)
    assert torch.equal(images, IMAGES)
    assert torch.equal(targets, TARGETS)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_have_mixed_and_smoothed_targets(tiny, kind):
    config = tiny(**{kind: 1.0}, smoothing=0.3)
    _, targets = BatchAugment(config, 3, CPU)(torch.randn(4, 3, 16, 16), TARGETS)
    assert targets.shape == (4, 3)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert targets.min() == pytest.approx(0.1)
    assert loss_function(config)(torch.zeros(4, 3), targets).item() == pytest.approx(torch.tensor(3.0).log().item())
    with pytest.raises(ValueError, match="has 3 images"):
        BatchAugment(config, 3, CPU)(IMAGES[:3].clone(), TARGETS[:3])


def test_erasing_puts_noise_into_some_images(tiny):
    torch.manual_seed(0)
    images, _ = BatchAugment(tiny(erasing=0.99), 3, CPU)(IMAGES.clone(), TARGETS)
    assert 0 < (images != 1).float().mean() < 0.5


def test_smoothing_without_mixing(tiny):
    logits = torch.randn(4, 3)
    wanted = torch.nn.functional.cross_entropy(logits, TARGETS, label_smoothing=0.1)
    assert torch.allclose(loss_function(tiny(smoothing=0.1))(logits, TARGETS), wanted)
