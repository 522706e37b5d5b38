"""Compare perceptual distances on generated distortions of real images, with held-out references.

The data are a tar file with train/CLASS and val/CLASS of ten ImageNet classes.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from records import ROOT, provenance

from studies import pretraining

NAME = "perceptual"
FOLDER = ROOT / "docs" / "results" / NAME
CONFIG, RATE = "resnet18_bn_small", 0.1
REFERENCES, TEST_SHARE = 100, 0.4


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="measure")
    commands.add_parser("table", help="write the page and the figures")
    add = running.add_argument
    add("--data", type=lambda word: Path(word).resolve(), required=True, metavar="TAR")
    add("--seed", nargs="+", type=int, default=[1, 2])
    add("--backbone", default="resnet18", metavar="NAME", help="with --weights, another than the one trained here")
    add("--weights", type=Path, metavar="FILE", help="of the backbone; by default one is trained for each seed")


def obey(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    if args.command == "table":
        from studies.perceptual_page import write

        write(FOLDER)
        return
    for seed in args.seed:
        record = FOLDER / f"{args.backbone}_seed{seed}.json"
        if record.exists():
            print(f"{record.name}: there already")
            continue
        made_at = provenance()
        output = ROOT / "output" / f"study_{NAME}"
        weights = args.weights or trained(seed, args.data, output)
        found = measured(args.backbone, weights, seed, unpacked(args.data, output) / "val")
        record.parent.mkdir(parents=True, exist_ok=True)
        from ndpp_dense.robustness.perceptual.report import write_json

        write_json({"backbone": args.backbone, "seed": seed, **found, **made_at}, record)
        print(f"{record.name}: written", flush=True)


def trained(seed: int, data: Path, output: Path) -> Path:
    """Train the backbone of a seed if it is not there; return its weights."""
    folder = output / f"base_seed{seed}"
    if not (folder / "results.json").exists():
        words = [*pretraining.command(CONFIG, [], RATE, seed, data, folder), "--resume"]
        print(f"seed {seed}: {' '.join(words)}", flush=True)
        subprocess.run([sys.executable, *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return folder / "last.pth"


def unpacked(data: Path, output: Path) -> Path:
    """Return the folder of the images."""
    folder = output / "images"
    pretraining.unpack(data, folder)
    return folder


def measured(backbone: str, weights: Path, seed: int, images: Path) -> dict[str, Any]:
    """Measure, train weights with either loss, test them, and compare shifts with noise and blur."""
    import torch

    from ndpp_dense.robustness.perceptual import (
        GeneratedRatings,
        evaluate,
        learned,
        measure,
        open_baselines,
        open_stages,
        shift_ratios,
        split_references,
    )
    from ndpp_dense.robustness.perceptual.report import lines, results

    torch.set_num_threads(1)
    ratings = GeneratedRatings(images, limit=REFERENCES, seed=seed)
    split = split_references(ratings, TEST_SHARE, seed)
    torch.manual_seed(seed)
    own = learned(open_stages(backbone, weights))
    own["random gap"] = learned(open_stages(backbone))["gap"]
    baselines, missing = open_baselines()
    terms = {name: distance.terms for name, distance in own.items()}
    values = measure(ratings, {**terms, **baselines}, progress=True)
    rows, found = evaluate(ratings, values, split, "rank", seed)
    others = {name: baseline for name, baseline in baselines.items() if name != "psnr"}  # equal by construction
    ratios = shift_ratios(ratings, sorted(split.test), {**terms, **others}, found, seed=seed)
    print("\n".join(lines(rows, ratios, missing)), flush=True)
    pearson, _ = evaluate(ratings, {name: values[name] for name in own}, split, "pearson", seed)
    pearson = {name: row.as_dict()["agreement"] for name, row in pearson.items() if name.endswith("trained")}
    return {**results(ratings, split, rows, ratios, missing), "pearson_loss": pearson, "accuracy": accuracy(weights)}


def accuracy(weights: Path) -> float | None:
    """Return the top-1 accuracy of a backbone that was trained here."""
    file = weights.parent / "results.json"
    found: Mapping[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found.get("last", {}).get("top1")
