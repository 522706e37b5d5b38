"""Train a DeepLabv3 with ND++ by MMEngine's runner, on streets that are generated on first use."""

import argparse

from mmengine.config import Config
from mmengine.runner import Runner

import ndpp_dense.integrations.mmseg  # noqa: F401  registers NDPPModel and the hooks
from ndpp_dense import fold_ndpp, nd_layers
from ndpp_dense.config_files import find_config


def main() -> None:
    """Configure, train, evaluate, fold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", default="output/example_mmseg")
    parser.add_argument("--data", help="folder for the generated streets")
    args = parser.parse_args()

    cfg = Config.fromfile(str(find_config("deeplabv3_ndpp_demo")))
    cfg.work_dir = args.output
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = args.steps
    cfg.default_hooks.checkpoint.interval = args.steps
    cfg.model.ndpp.update(preset="fast", eps=0.1)  # any field of WhiteningConfig
    if args.data:
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.dataset.data_root = args.data

    runner = Runner.from_cfg(cfg)
    print(f"{len(list(nd_layers(runner.model)))} ND++ layers")
    runner.train()
    print(runner.message_hub.get_scalar("val/mIoU").current())

    plain = fold_ndpp(runner.model.eval())
    print(f"folded: {len(list(nd_layers(plain)))} ND++ layers")


if __name__ == "__main__":
    main()
