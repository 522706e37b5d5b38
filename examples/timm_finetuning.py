"""Train a timm network with batch norm on scikit-learn's digits, calibrate it to ND++, and fine-tune it."""

import argparse

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ndpp_dense import WhiteningConfig, calibrate_ndpp

# ResNets of timm keep the contrast of an image where local scale stays in the residual branches.
RULES = {name: {"local_scale": "none"} for name in ("conv1", "*.downsample.*", "fc")}


def digits() -> tuple[Tensor, Tensor]:
    """Return 1,797 images ``(N, 3, 32, 32)`` in [0, 1] and their classes ``(N,)``."""
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None].repeat(1, 3, 1, 1) / 16
    return nn.functional.interpolate(images, scale_factor=4), torch.from_numpy(data.target)


def train(model: nn.Module, images: Tensor, classes: Tensor, steps: int, lr: float) -> None:
    """Take steps of SGD with batches of 32."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        chosen = torch.randint(len(images), (32,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), classes[chosen]).backward()
        optimizer.step()


def main() -> None:
    """Train with batch norm, calibrate, fine-tune; print the accuracy after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    torch.manual_seed(0)
    images, classes = digits()
    training, test = (images[:1400], classes[:1400]), (images[1400:], classes[1400:])
    model = timm.create_model("resnet18", num_classes=10)  # with pretrained=True: weights from the network
    train(model, *training, args.steps, lr=0.05)
    print(f"batch norm: {accuracy(model, *test):.1%}")
    calibrate_ndpp(model, training[0].split(100), WhiteningConfig.fast("imagenet"), RULES, num_batches=5)
    print(f"calibrated: {accuracy(model, *test):.1%}")
    train(model, *training, args.steps, lr=0.005)
    print(f"fine-tuned: {accuracy(model, *test):.1%}")


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, classes: Tensor) -> float:
    """Return the share of images that are classified right."""
    return (model.eval()(images).argmax(1) == classes).float().mean().item()


if __name__ == "__main__":
    main()
