#!/usr/bin/env python
"""Compare ND++ with group and batch normalisation on real images: small Mask R-CNNs from scratch on cell nuclei.

    python tools/study_nuclei.py run --data FOLDER --method fast gn --lr 0.05 0.1 --seed 1 2
    python tools/study_nuclei.py time --data FOLDER
    python tools/study_nuclei.py table

``run`` trains each combination with tools/train_net.py and keeps one JSON file a run in docs/results/nuclei/; ``time``
measures the training step of all methods in one process, interleaved; ``table`` writes docs/results/nuclei.md and .png
from those files. FOLDER holds annotations/{train,val}.json and images/{train,val}.
"""

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "nuclei"
METHODS = {
    "bn": ("batch norm", "mask_rcnn_bn_small", []),
    "gn": ("group norm", "mask_rcnn_gn_small", []),
    "paper": ("ND++ `paper`", "mask_rcnn_ndpp_small", ["MODEL.NDPP.PRESET", "paper"]),
    "fast": ("ND++ `fast`", "mask_rcnn_ndpp_small", ["MODEL.NDPP.PRESET", "fast"]),
}


def flags(folder: Path) -> list[str]:
    """Return the ``--dataset`` values of the two splits."""
    return [f"nuclei_{s}={folder / 'annotations' / s}.json:{folder / 'images' / s}" for s in ("train", "val")]


def hardware() -> str:
    """Return processor and thread count in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{model}, 1 thread"


def commit() -> str:
    """Return the short hash of the commit, marked where the tree differs from it."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def train(method: str, lr: float, seed: int, args: argparse.Namespace) -> None:
    """Train one combination and keep its result; one that is there already is left."""
    tag = "".join(f"_{word.rsplit('.', 1)[-1].lower()}" for word in args.set)
    name = f"{method}{tag}_lr{lr:g}_seed{seed}"
    record = RESULTS / f"{name}.json"
    if record.exists():
        print(f"{name}: there already")
        return
    _, config, overrides = METHODS[method]
    output = ROOT / "output" / "study_nuclei" / name
    overrides = [*overrides, *args.set]
    words = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config", config, "--device", "cpu"]
    words += [word for flag in flags(args.data) for word in ("--dataset", flag)]
    words += ["--output", str(output), *overrides, "SOLVER.BASE_LR", str(lr), "SEED", str(seed)]
    print(f"{name}: {' '.join(words[1:])}", flush=True)
    output.mkdir(parents=True, exist_ok=True)
    with open(output / "console.txt", "w") as log:
        code = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    diverged = code != 0
    metrics = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = [[m["iteration"] + 1, m["total_loss"]] for m in metrics if "total_loss" in m]
    evaluated = [(min(m["iteration"] + 1, losses[-1][0]), m) for m in metrics if "segm/AP" in m]
    curve = {iteration: [m["segm/AP"], m["segm/AP50"], m["bbox/AP"]] for iteration, m in evaluated}
    result = {"method": method, "lr": lr, "seed": seed, "overrides": overrides, "diverged": diverged}
    result |= {"AP": curve, "loss": losses, "commit": commit(), "hardware": hardware()}
    record.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{name}: {'diverged' if diverged else curve}", flush=True)


def run(args: argparse.Namespace) -> None:
    """Train all combinations."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed, method, lr in itertools.product(args.seed, args.method, args.lr):
        train(method, lr, seed, args)


def measure(args: argparse.Namespace) -> None:
    """Time training steps of all methods on the same batches, one after the other in turn."""
    import torch
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from ndpp_dense.integrations.detectron2.loader import TrainData
    from ndpp_dense.integrations.detectron2.mapper import CheckedDatasetMapper
    from ndpp_dense.integrations.detectron2.run_config import build_config

    torch.set_num_threads(1)
    models, batches = {}, []
    for method, (_, config, overrides) in METHODS.items():
        cfg, _ = build_config(config, datasets=flags(args.data), device="cpu", overrides=overrides)
        models[method] = build_model(cfg).train()
        if not batches:
            mapper = CheckedDatasetMapper(cfg, True)  # pyright: ignore[reportCallIssue]
            data = TrainData(cfg, mapper).batches(1, num_workers=0)
            batches = [next(data) for _ in range(args.steps + 1)]
    seconds: dict[str, list[float]] = {method: [] for method in models}
    with EventStorage(0):
        for batch, (method, model) in itertools.product(batches, models.items()):
            start = time.perf_counter()
            torch.stack(list(model(batch).values())).sum().backward()
            seconds[method].append(time.perf_counter() - start)
            model.zero_grad(set_to_none=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = {method: values[1:] for method, values in seconds.items()}  # the first one warms up
    record = {"seconds": kept, "commit": commit(), "hardware": hardware()}
    (RESULTS / "step_time.json").write_text(json.dumps(record, indent=1) + "\n")
    print({method: round(statistics.median(values), 3) for method, values in kept.items()})


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("run", help="train")
    timing = commands.add_parser("time", help="measure the training step")
    commands.add_parser("table", help="write the table and the figure")
    for command in (training, timing):
        command.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    training.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    training.add_argument("--lr", nargs="+", type=float, default=[0.05])
    training.add_argument("--seed", nargs="+", type=int, default=[1, 2])
    training.add_argument("--set", nargs="*", default=[], metavar="KEY VALUE", help="further overrides, for trials")
    timing.add_argument("--steps", type=int, default=7)
    args = parser.parse_args()
    if args.command == "table":
        from study_table import write

        write(RESULTS, METHODS)
    else:
        {"run": run, "time": measure}[args.command](args)


if __name__ == "__main__":
    main()
