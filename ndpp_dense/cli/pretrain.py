"""Train and evaluate a classifier on ImageNet, or on any images in its layout.

Examples::

    ndpp pretrain --config resnet18_ndpp_small --data FOLDER_OR_TAR --device cpu
    ndpp pretrain --config resnet50_ndpp_bs256 --data imagenet --name resnet50_hybrid --resume
    torchrun --nproc-per-node 8 -m ndpp_dense.cli pretrain --config resnet50_ndpp_bs2048 --data imagenet amp=bfloat16
    ndpp pretrain --config CONFIG --data imagenet --eval-only weights=output/CONFIG/best.pth
    ndpp pretrain --config CONFIG --data imagenet lr=0.2 epochs=30 ndpp.eps=0.01

The data hold train/CLASS/IMAGE and val/CLASS/IMAGE (or validation/CLASS/IMAGE). They may also be WebDataset shards in
a folder (wds/FOLDER, with train or val in the shards' paths) or a data set of Hugging Face (hfds/NAME or hfds/FOLDER).
A run resumes exactly on all of them, since images are taken by number; data sets that only stream are refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ndpp_dense.cli.launching import add_launch_options, chosen_device, launched
from ndpp_dense.cli.output import check_folder, say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    add = parser.add_argument
    add("--config", required=True, metavar="NAME", help="path or bare name of a config")
    add("--data", required=True, metavar="PATH", help="folder or .tar file of images, wds/FOLDER, or hfds/NAME")
    add("--output", metavar="FOLDER", help="default: output/<config name>")
    add("--name", metavar="BACKBONE", help="another backbone than the config's")
    add("--weights", metavar="NAME|PATH", help="start from (or evaluate) these: weights=FILE, or of the model zoo")
    add("--calibrate", action="store_true", help="start as ND++ with the function of --weights, which have batch norms")
    add("--resume", action="store_true", help="continue the newest checkpoint of the output folder")
    add("--eval-only", action="store_true", help="only evaluate weights=FILE (with --resume: the newest checkpoint)")
    add("--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU, else cpu")
    add_launch_options(parser)
    add("overrides", nargs="*", metavar="KEY=VALUE", help="settings in place of the config's")


def run(args: argparse.Namespace) -> int:
    """Launches the processes of the run."""
    check_folder("--output", args.output)
    from ndpp_dense.distributed import launch

    args.device = chosen_device(args.device)
    launched(launch, _work, args, args.device)
    return 0


def _work(args: argparse.Namespace) -> None:
    """Trains or evaluates in this process."""
    import torch

    from ndpp_dense.pretrain.config_loading import load_config
    from ndpp_dense.pretrain.processes import is_main, own_device
    from ndpp_dense.pretrain.run import evaluate_only, logged, scaled, train
    from ndpp_dense.zoo import as_address

    chosen = [f"weights={as_address(args.weights)}"] if args.weights else []
    chosen += ["calibrate=true"] if args.calibrate else []
    config, path = load_config(args.config, [*args.overrides, *chosen], name=args.name)
    output = Path(args.output or Path("output") / path.stem)
    with logged(output):
        torch.backends.cudnn.benchmark = True
        if args.auto_scale is not None:
            config = scaled(config, args.auto_scale)
        command = evaluate_only if args.eval_only else train
        command(config, args.data, output, own_device(args.device), resume=args.resume)
        if is_main():
            train_files = "results.json, summary.csv, curves.png, best.pth, last.pth, report.html"
            say(f"{'evaluation.json, evaluation.html' if args.eval_only else train_files} in {output}")
