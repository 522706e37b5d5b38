#!/usr/bin/env python
"""Train and evaluate an MMSegmentation model with ND++ layers.

Examples::

    python tools/train_seg.py --config deeplabv3_ndpp_demo
    python tools/train_seg.py --config deeplabv3_r18_ndpp_camvid --dataset data/camvid --resume
    python tools/train_seg.py --config deeplabv3_ndpp_demo --weights ndpp://deeplabv3_ndpp_demo
    torchrun --nproc-per-node 8 tools/train_seg.py --config deeplabv3_r50_ndpp_scratch --launcher pytorch --amp
    python tools/train_seg.py --config CONFIG --cfg-options optim_wrapper.optimizer.lr=0.05 model.ndpp.preset=paper
"""

import argparse
import os
import warnings
from functools import partial

from launch_options import add_launch_options, launch_options, say
from readable_errors import readable_errors


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    from mmengine.config import DictAction

    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--config", required=True, metavar="NAME", help="path or bare name of a config")
    add("--work-dir", metavar="FOLDER", help="default: the config's, or output/<config name>")
    add("--dataset", metavar="FOLDER", help="folder of the config's data set (its data_root)")
    add("--weights", metavar="NAME|PATH", help="start from (or evaluate) these: load_from, or of the model zoo")
    add("--resume", action="store_true", help="continue the newest checkpoint of the work dir")
    add("--eval-only", action="store_true", help="only evaluate load_from (with --resume: the newest checkpoint)")
    add("--amp", action="store_true", help="mixed precision (bfloat16), on GPUs")
    add(
        "--launcher",
        choices=("none", "pytorch", "slurm", "mpi"),
        default="none",
        help="who started the processes; found out by itself but for mpi",
    )
    add("--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE", help="configuration overrides")
    add_launch_options(result)
    add("--traceback", action="store_true", help="show where in the program an error arose")
    add("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)  # torch.distributed.launch
    return result


def run(args: argparse.Namespace) -> None:
    """Train or evaluate in this process."""
    _ignore_old_warnings()  # in spawned processes too
    import torch.distributed as dist
    from mmengine.runner import Runner

    import ndpp_dense.integrations.mmseg  # noqa: F401  (registers the types that configs name)
    from ndpp_dense.integrations.mmengine.processes import auto_scale, prepare_processes, ranks_of
    from ndpp_dense.integrations.mmseg.run_config import build_config, choose_resumed, evaluated_checkpoint
    from ndpp_dense.zoo import as_address

    weights = {"load_from": as_address(args.weights)} if args.weights else {}
    config = build_config(
        args.config,
        work_dir=args.work_dir,
        dataset=args.dataset,
        resume=args.resume,
        amp=args.amp,
        launcher="pytorch" if args.launcher == "none" and dist.is_initialized() else args.launcher,
        options={**args.cfg_options, **weights},
    )
    if args.eval_only:
        config.load_from, config.resume = evaluated_checkpoint(config), False
    elif args.resume:
        choose_resumed(config)
    prepare_processes(config, args.timeout)
    if args.auto_scale is not None:
        lines = auto_scale(config, args.auto_scale, ranks_of(config.launcher))
        if not dist.is_initialized() or dist.get_rank() == 0:
            say("\n".join(lines))
    runner = Runner.from_cfg(config)
    if args.eval_only:
        runner.test()
    else:
        runner.train()
    if runner.rank == 0:
        say(f"results.json, predictions.png{'' if args.eval_only else ', curves.png'} in {config.work_dir}")


def _ignore_old_warnings() -> None:
    """MMEngine, MMCV and MMSegmentation were written for older releases: harmless, and nothing a user can change."""
    for package in ("mmengine", "mmcv", "mmseg"):
        warnings.filterwarnings("ignore", module=f"{package}.*")
    warnings.filterwarnings("ignore", message="torch.utils.checkpoint: the use_reentrant")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and launch."""
    _ignore_old_warnings()
    args = parser().parse_args(argv)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    with readable_errors(args.traceback):
        import torch

        from ndpp_dense.distributed import launch

        if args.launcher == "mpi":
            run(args)
            return
        device = "cuda" if torch.cuda.is_available() else "cpu"
        guard = partial(readable_errors, args.traceback)
        launch(run, launch_options(args, device), (args,), say=say, guard=guard)


if __name__ == "__main__":
    main()
