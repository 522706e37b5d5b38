"""Train torchvision's Mask R-CNN or DeepLabv3 with ND++ in a plain loop, on generated pictures of squares."""

import argparse

import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.segmentation import deeplabv3_resnet50

from ndpp_dense import WhiteningConfig, convert_to_ndpp, fold_ndpp

SIZE = 128
Picture = tuple[Tensor, Tensor, Tensor]


def picture() -> Picture:
    """Return an image ``(3, H, W)`` with one bright square, the square's mask ``(H, W)`` and its box ``(4,)``."""
    left, top = torch.randint(0, SIZE - 64, (2,)).tolist()
    mask = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    mask[top : top + 48, left : left + 48] = 1
    return torch.rand(3, SIZE, SIZE) * 0.5 + mask * 0.5, mask, torch.tensor([left, top, left + 48.0, top + 48.0])


def detection_loss(model: nn.Module, pictures: list[Picture]) -> Tensor:
    """Return the sum of the losses that torchvision's detectors return in training."""
    targets = [{"boxes": box[None], "labels": torch.ones(1).long(), "masks": mask[None]} for _, mask, box in pictures]
    return sum(model([image for image, _, _ in pictures], targets).values(), torch.zeros(()))


def segmentation_loss(model: nn.Module, pictures: list[Picture]) -> Tensor:
    """Return the cross entropy of the label maps."""
    images, masks = (torch.stack([p[part] for p in pictures]) for part in (0, 1))
    return nn.functional.cross_entropy(model(images)["out"], masks.long())


def main() -> None:
    """Build, convert, train, fold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("maskrcnn", "deeplabv3"), default="maskrcnn")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    options = {"weights": None, "weights_backbone": None, "num_classes": 2}
    if args.model == "maskrcnn":
        model, loss_of = maskrcnn_resnet50_fpn(**options, min_size=SIZE, max_size=SIZE), detection_loss
    else:
        model, loss_of = deeplabv3_resnet50(**options), segmentation_loss
    print(convert_to_ndpp(model, WhiteningConfig.fast("coco")).summary())  # before the optimizer
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in range(args.steps):
        loss = loss_of(model.train(), [picture() for _ in range(2)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1}: loss {loss.item():.3f}")
    found = fold_ndpp(model.eval())(torch.stack([picture()[0]]))
    print(found[0].keys() if args.model == "maskrcnn" else found["out"].shape)


if __name__ == "__main__":
    main()
