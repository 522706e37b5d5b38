#!/usr/bin/env python
"""Train and evaluate a classifier on ImageNet, or on any images in its layout.

Examples::

    python tools/pretrain.py --config resnet18_ndpp_small --data FOLDER_OR_TAR --device cpu
    python tools/pretrain.py --config resnet50_ndpp_bs256 --data imagenet --name resnet50_hybrid --resume
    torchrun --nproc-per-node 8 tools/pretrain.py --config resnet50_ndpp_bs2048 --data imagenet amp=bfloat16
    python tools/pretrain.py --config CONFIG --data imagenet --eval-only weights=output/CONFIG/best.pth
    python tools/pretrain.py --config CONFIG --data imagenet lr=0.2 epochs=30 ndpp.eps=0.01

The data hold train/CLASS/IMAGE and val/CLASS/IMAGE (or validation/CLASS/IMAGE).
"""

import argparse
from pathlib import Path

from readable_errors import readable_errors


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--config", required=True, metavar="NAME", help="path or bare name of a config")
    add("--data", required=True, metavar="PATH", help="folder or .tar file of images")
    add("--output", metavar="FOLDER", help="default: output/<config name>")
    add("--name", metavar="BACKBONE", help="another backbone than the config's")
    add("--weights", metavar="NAME|PATH", help="start from (or evaluate) these: weights=FILE, or of the model zoo")
    add("--resume", action="store_true", help="continue the newest checkpoint of the output folder")
    add("--eval-only", action="store_true", help="only evaluate weights=FILE (with --resume: the newest checkpoint)")
    add("--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU, else cpu")
    add("--traceback", action="store_true", help="show where in the program an error arose")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="settings in place of the config's")
    return result


def run(args: argparse.Namespace) -> None:
    """Train or evaluate in this process."""
    import torch

    from ndpp_dense.pretrain.config_loading import load_config
    from ndpp_dense.pretrain.processes import is_main, joined
    from ndpp_dense.pretrain.run import evaluate_only, logged, train
    from ndpp_dense.zoo import as_address

    weights = [f"weights={as_address(args.weights)}"] if args.weights else []
    config, path = load_config(args.config, [*args.overrides, *weights], name=args.name)
    output = Path(args.output or Path("output") / path.stem)
    with joined(args.device or ("cuda" if torch.cuda.is_available() else "cpu")) as device, logged(output):
        torch.backends.cudnn.benchmark = True
        command = evaluate_only if args.eval_only else train
        command(config, args.data, output, device, resume=args.resume)
        if is_main():
            files = "evaluation.json" if args.eval_only else "results.json, summary.csv, curves.png, best.pth, last.pth"
            print(f"{files} in {output}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run."""
    args = parser().parse_intermixed_args(argv)
    with readable_errors(args.traceback):
        run(args)


if __name__ == "__main__":
    main()
