"""Compare perceptual distances with ratings on pairs of images: ours on a backbone, PSNR, SSIM, LPIPS and DISTS.

Examples::

    ndpp perceptual --data IMAGES --model resnet18 --weights output/run/last.pth
    ndpp perceptual --data kadid10k --ratings kadid10k --model vgg16_multi_gap --weights vgg16.pth
    ndpp perceptual --data tid2013 --ratings tid2013 --model resnet50 --weights pretrained \
        --loss pearson --device cuda
    ndpp perceptual --data raid --ratings raid --model vgg16_multi_gap --weights vgg16.pth \
        --distance-weights output/perceptual/gap.safetensors

Without --ratings, distorted views of the images in the folder are made, five steps of each kind, and the order of the
steps is the rating. Weights of our distance are trained on a part of the reference images and tested on the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ndpp_dense.cli.launching import chosen_device
from ndpp_dense.cli.output import check_folder, say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    add = parser.add_argument
    add("--data", required=True, metavar="FOLDER", help="images, or the folder of a rating set")
    add(
        "--ratings",
        "--opinions",
        default="generated",
        metavar="SET",
        help="generated (default), kadid10k, tid2013, tid2008, raid",
    )
    add("--model", required=True, metavar="NAME", help="backbone of ours or timm's, or a pretraining config")
    add("--weights", metavar="FILE", help="of the backbone; 'pretrained' downloads timm's; random without it")
    add("--distance-weights", metavar="FILE", help="trained before: train none, test on all references")
    add("--loss", default="rank", metavar="LOSS", help="rank (default) or pearson")
    add("--test-share", type=float, default=0.4, help="of the references, held out of training (default 0.4)")
    add("--baselines", "--peers", nargs="*", metavar="NAME", help="default: psnr ssim lpips_vgg lpips_alex dists")
    add("--limit", type=int, metavar="N", help="generated: number of references, drawn from the images")
    add("--size", type=int, default=128, help="generated: pixels a side of the pictures (default 128)")
    add("--seed", type=int, default=0)
    add("--resamples", type=int, default=1000, help="of the references, for the intervals (default 1000)")
    add("--batch-size", type=int, default=32)
    add("--device", default=None, help="default: cuda where there is a GPU, else cpu")
    add("--output", default="output/perceptual", metavar="FOLDER")


def _open_set(args: argparse.Namespace) -> Any:
    """Open the rating set that the command line names."""
    from ndpp_dense.robustness.perceptual import LAYOUTS, GeneratedRatings, open_ratings

    if args.ratings == "generated":
        return GeneratedRatings(args.data, args.size, args.limit, seed=args.seed)
    if args.ratings not in LAYOUTS:
        raise ValueError(f"--ratings {args.ratings}: choose from generated, {', '.join(LAYOUTS)}.")
    return open_ratings(args.ratings, args.data)


def _split_of(args: argparse.Namespace, ratings: Any) -> Any:
    """Return the split: all references are for testing where the weights were trained before."""
    from ndpp_dense.robustness.perceptual import ReferenceSplit, split_references

    if args.distance_weights:
        return ReferenceSplit(frozenset(), frozenset(pair.reference for pair in ratings.pairs))
    return split_references(ratings, args.test_share, args.seed)


def run(args: argparse.Namespace) -> int:
    """Measures, trains, tests and writes."""
    from ndpp_dense.reports.drawing import drawing
    from ndpp_dense.robustness import perceptual
    from ndpp_dense.robustness.perceptual import BASELINES, report
    from ndpp_dense.robustness.perceptual.training import check_loss

    check_folder("--output", args.output)
    check_loss(args.loss)
    ratings = _open_set(args)
    baselines, missing = perceptual.open_baselines(BASELINES if args.baselines is None else args.baselines)
    split = _split_of(args, ratings)
    device = chosen_device(args.device)
    own = perceptual.learned(perceptual.open_stages(args.model, args.weights).to(device))
    given = {}
    if args.distance_weights:
        own = {"gap": own["gap"].to(device)}
        own["gap"].load_weight(args.distance_weights)
        given = {"gap": own["gap"].weight}
    metrics = {**{name: distance.terms for name, distance in own.items()}, **baselines}
    measured = perceptual.measure(ratings, metrics, device, args.batch_size, progress=True)
    rows, weights = perceptual.evaluate(ratings, measured, split, args.loss, args.seed, given, args.resamples)
    folder = Path(args.output)
    ratios = {}
    for name, distance in own.items():
        distance.weight.data.copy_(weights[name])
        distance.save_weight(folder / f"{name}.safetensors", model=args.model, opinions=ratings.name, loss=args.loss)
    if args.ratings == "generated":
        others = {name: baseline for name, baseline in baselines.items() if name != "psnr"}  # equal by construction
        distances = {**{name: distance.terms for name, distance in own.items()}, **others}
        ratios = perceptual.shift_ratios(ratings, sorted(split.test), distances, weights, seed=args.seed, device=device)
    report.write_json(report.results(ratings, split, rows, ratios, missing), folder / "results.json")
    report.write_distances(ratings, split, rows, folder / "distances.csv")
    with drawing(folder / "agreement.png"):
        report.write_figures(rows, ratios, folder)
    say(f"{len(ratings.pairs)} pairs, {len(split.train)} references for training, {len(split.test)} for testing")
    say(*report.lines(rows, ratios, missing), f"results.json, distances.csv, figures and weights in {folder}")
    return 0
