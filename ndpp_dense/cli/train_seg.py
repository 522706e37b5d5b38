"""Train and evaluate an MMSegmentation model with ND++ layers.

Examples::

    ndpp train-seg --config deeplabv3_ndpp_demo
    ndpp train-seg --config deeplabv3_r18_ndpp_camvid --dataset data/camvid --resume
    ndpp train-seg --config deeplabv3_ndpp_demo --weights ndpp://deeplabv3_ndpp_demo
    ndpp train-seg --config deeplabv3_r50_ndpp --weights deeplabv3_r50_syncbn.pth --calibrate
    torchrun --nproc-per-node 8 -m ndpp_dense.cli train-seg --config deeplabv3_r50_ndpp_scratch --launcher pytorch --amp
    ndpp train-seg --config CONFIG --cfg-options optim_wrapper.optimizer.lr=0.05 model.ndpp.preset=paper
"""

from __future__ import annotations

import argparse
import os

from ndpp_dense.cli.launching import add_launch_options, chosen_device, launched
from ndpp_dense.cli.output import check_folder, say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    add = parser.add_argument
    add("--config", required=True, metavar="NAME", help="path or bare name of a config")
    add("--work-dir", metavar="FOLDER", help="default: the config's, or output/<config name>")
    add("--dataset", metavar="FOLDER", help="folder of the config's data set (its data_root)")
    add("--weights", metavar="NAME|PATH", help="start from (or evaluate) these: load_from, or of the model zoo")
    add("--calibrate", action="store_true", help="start as ND++ with the function of --weights, which have batch norms")
    add("--resume", action="store_true", help="continue the newest checkpoint of the work dir")
    add("--eval-only", action="store_true", help="only evaluate load_from (with --resume: the newest checkpoint)")
    add("--amp", action="store_true", help="mixed precision (bfloat16), on GPUs")
    add(
        "--launcher",
        choices=("none", "pytorch", "slurm", "mpi"),
        default="none",
        help="who started the processes; found out by itself but for mpi",
    )
    add("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="configuration overrides")
    add_launch_options(parser)
    add("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)  # torch.distributed.launch


def run(args: argparse.Namespace) -> int:
    """Launches the processes of the run."""
    check_folder("--work-dir", args.work_dir)
    from ndpp_dense.distributed import launch

    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    if args.launcher == "mpi":  # MMEngine joins the processes
        _work(args)
    else:
        launched(launch, _work, args, chosen_device(None))
    return 0


def _work(args: argparse.Namespace) -> None:
    """Trains or evaluates in this process."""
    import ndpp_dense.integrations.mmseg  # noqa: F401  (registers the types that configs name)
    from ndpp_dense.integrations.mmseg.run import evaluate_or_train
    from ndpp_dense.zoo import as_address

    evaluate_or_train(
        args.config,
        options=[*args.cfg_options, *(["model.ndpp.calibrate=True"] if args.calibrate else [])],
        weights=as_address(args.weights) if args.weights else None,
        work_dir=args.work_dir,
        dataset=args.dataset,
        resume=args.resume,
        amp=args.amp,
        launcher=args.launcher,
        eval_only=args.eval_only,
        timeout=args.timeout,
        meant_for=args.auto_scale,
        say=say,
    )
