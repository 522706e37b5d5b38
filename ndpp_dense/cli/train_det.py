"""Train and evaluate a Detectron2 model with ND++ layers.

Examples::

    ndpp train-det --config mask_rcnn_ndpp_demo --device cpu
    ndpp train-det --config CONFIG --num-gpus 8 --resume
    ndpp train-det --config mask_rcnn_ndpp_demo --weights ndpp://mask_rcnn_ndpp_demo
    ndpp train-det --config mask_rcnn_ndpp --weights model_final.pkl --calibrate
    ndpp train-det --config CONFIG --dataset cells_train=train.json:cells --dataset cells_val=val.json:cells
    torchrun --nproc-per-node 8 -m ndpp_dense.cli train-det --config CONFIG SOLVER.BASE_LR 0.01
"""

from __future__ import annotations

import argparse

from ndpp_dense.cli.errors import shows_tracebacks
from ndpp_dense.cli.launching import add_launch_options, chosen_device, launched
from ndpp_dense.cli.output import check_folder, say

_DATASET = "COCO json; or NAME=DATA.YAML of YOLO, NAME=FOLDER of Pascal VOC; NAME ends in _train or _val; repeatable"
__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    add = parser.add_argument
    add("--config", "--config-file", required=True, metavar="NAME", help="path or bare name of a config")
    add("--resume", action="store_true", help="continue the newest checkpoint of the output folder")
    add("--eval-only", action="store_true", help="only evaluate MODEL.WEIGHTS (with --resume: the newest checkpoint)")
    add("--weights", metavar="NAME|PATH", help="start from (or evaluate) these: MODEL.WEIGHTS, or of the model zoo")
    add("--calibrate", action="store_true", help="start as ND++ with the function of --weights, which have batch norms")
    add("--dataset", action="append", default=[], metavar="NAME=JSON:IMAGES", help=_DATASET)
    add("--fit-data", action="store_true", help="anchors, detections and length of the run that fit --dataset")
    add("--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU, else cpu")
    add("--output", metavar="FOLDER", help="default: output/<config name>")
    add_launch_options(parser)
    add("overrides", nargs="*", metavar="KEY VALUE", help="configuration overrides")


def run(args: argparse.Namespace) -> int:
    """Launches the processes of the run."""
    check_folder("--output", args.output)
    from ndpp_dense.integrations.detectron2.launch import launch

    args.device = chosen_device(args.device)
    launched(launch, _work, args, args.device)
    return 0


def _work(args: argparse.Namespace) -> None:
    """Trains or evaluates in this process."""
    from ndpp_dense.integrations.detectron2.run import evaluate_or_train
    from ndpp_dense.zoo import as_address

    chosen = ["MODEL.WEIGHTS", as_address(args.weights)] if args.weights else []
    chosen += ["MODEL.NDPP.CALIBRATE", "True"] if args.calibrate else []
    evaluate_or_train(
        args.config,
        datasets=args.dataset,
        device=args.device,
        output=args.output,
        overrides=[*args.overrides, *chosen],
        auto_scale=args.auto_scale,
        fit=args.fit_data,
        eval_only=args.eval_only,
        resume=args.resume,
        tracebacks=shows_tracebacks(args.traceback),
        say=say,
    )
