"""What a reader has at hand where a page's Python begins, and what a test puts in the place of downloads."""

import torch

from ndpp_dense import create_backbone


def ready(page, folder):
    """Return the names that a page's code takes for given; files that it reads are made in a folder."""
    model, other = network(), network()
    images = torch.randn(8, 3, 64, 64)
    batches = [torch.randn(64, 3, 64, 64) for _ in range(4)]
    names = {"model": model, "other": other, "images": images, "batches": batches, "loader": batches}
    if page == "docs/guides/deployment.md":
        from ndpp_dense import convert_to_ndpp

        convert_to_ndpp(model)
    if page == "docs/scaling.md":
        names |= accumulation(model)
    if page == "docs/robustness.md":
        image_tree(folder / "imagenet")
        torch.save(create_backbone("resnet26_hybrid", num_classes=10).state_dict(), folder / "weights.pth")
    if page == "docs/perceptual.md":
        names |= perceptual(folder)
    return names


def network():
    """A small residual network of timm's kind, in evaluation mode."""
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10, channels=(8, 16, 32, 64)).eval()


def accumulation(model):
    from ndpp_dense import WhiteningConfig, convert_to_ndpp, micro_batches_of_step

    convert_to_ndpp(model, WhiteningConfig.fast().override({"schedule": "stale"}))
    parts = [torch.randn(4, 3, 64, 64) for _ in range(2)]
    return {
        "model": model.train(),
        "micro_batches": parts,
        "whole": lambda: model(torch.cat(parts)),
        "loss": lambda outputs: outputs.square().mean(),
        "micro_batches_of_step": micro_batches_of_step,
    }


def image_tree(folder):
    from PIL import Image

    for split in ("train", "val"):
        for number in range(10):
            path = folder / split / f"class{number}" / "image.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (64, 64), (25 * number, 90, 40)).save(path)


def perceptual(folder):
    import timm

    from ndpp_dense.robustness.perceptual import GapDistance, StageMaps

    torch.save(create_backbone("vgg16_multi_gap").state_dict(), folder / "vgg16.pth")
    distance = GapDistance(StageMaps(timm.create_model("resnet10t", features_only=True)))
    distance.save_weight(folder / "gap.safetensors")
    return {"timm": timm, "a": torch.rand(2, 3, 64, 64), "b": torch.rand(2, 3, 64, 64)}


# Weights from the network, and what takes minutes: page, words of the page, words of the test.
INSTEAD = {
    "docs/robustness.md": {
        'model="resnet50.a1_in1k", limit=500': 'config="resnet26_hybrid_small", weights="weights.pth"',
        "range(-50, 51, 5)": "range(-4, 5, 4)",
    },
    "docs/perceptual.md": {'"convnext_tiny", pretrained=True': '"resnet10t"'},
}
