"""Fold an ND++ network into plain layers, write it as ONNX and compare onnxruntime with it."""

import argparse

import onnxruntime
import torch

from ndpp_dense import WhiteningConfig, create_backbone, fold_ndpp, update_stats


def main() -> None:
    """Build, give it statistics, fold, export, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet26_hybrid", help="a name of list_backbones()")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--output", default="model.onnx")
    args = parser.parse_args()

    model = create_backbone(args.model, num_classes=10, ndpp=WhiteningConfig.fast("imagenet"))
    update_stats(model, [torch.randn(16, 3, args.size, args.size) for _ in range(4)])  # in place of training
    plain = fold_ndpp(model)

    example = torch.randn(2, 3, args.size, args.size)
    program = torch.onnx.export(
        plain,
        (example,),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        output_names=["logits"],
        dynamo=True,
        verbose=False,
    )
    program.save(args.output)  # pyright: ignore[reportOptionalMemberAccess]

    session = onnxruntime.InferenceSession(args.output, providers=["CPUExecutionProvider"])
    images = torch.randn(5, 3, args.size, args.size)  # another batch size than it was exported with
    (found,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        difference = (plain(images) - torch.from_numpy(found)).abs().max().item()
    print(f"{args.output}: largest difference between onnxruntime and torch {difference:.1e}")


if __name__ == "__main__":
    main()
