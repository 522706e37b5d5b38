"""The page and the figures of the study of perceptual distances."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from records import table

from ndpp_dense.robustness.perceptual.correlation import Interval
from ndpp_dense.robustness.perceptual.distortions import KINDS
from ndpp_dense.robustness.perceptual.plots import draw_agreement, draw_ratios, label, new_figure, save_png

Record = dict[str, Any]
TEXT = """# Perceptual distances on generated distortions

{references[train]} training and {references[test]} test references a seed, of 96 x 96 pixels, from validation images of
ten ImageNet classes, each distorted in seven kinds and five steps. The rating is the step's number and is compared
within a kind only, across all references: nobody was asked, so this says whether equal strengths of a distortion are
equally far on all images and stronger ones farther, not whether people agree.

"GAP" averages the maps of a ResNet-18's five stages and compares the averages, `sqrt(mean(w^2 d^2))`. "Activations in
place" compares unit activations of the same five stages position by position, as LPIPS does; it is not LPIPS. Weights
of both are trained alike, by the rank loss on the training references alone, with steps, learning rate and decay tried
on CamVid's images. The backbones, of 64-pixel images, one a seed, are `resnet18_bn_small` after its 12 epochs (top-1
{accuracy}); "untrained backbone" has random weights. PSNR and SSIM have nothing to train.

{missing}

Written by `python tools/study.py perceptual table` from the JSON files in `perceptual/`, one a seed; the runs by
`python tools/study.py perceptual run --data TAR`.

Hardware: {hardware}. Code: {commits} (`+`: with edits).
"""
SHIFT = """"Shift over noise" is the distance of a copy shifted by 1 to 8 pixels, real content coming into view, over
that of a noisy copy of the same PSNR: the geometric mean over test references and shifts. Less is more invariant; PSNR
has 1 by definition. {no_blur:.0f}% of the shifts change more than any blur does; they are left out of "over blur".
Intervals are of 95% over test references."""


def write(folder: Path) -> None:
    """Write ``<folder>.md`` and its figures."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*_seed*.json"))]
    if not records:
        raise SystemExit(f"no records in {folder}: run `python tools/study.py perceptual run` first")
    first = records[0]
    said = sorted({f"{label(name)} {why}" for record in records for name, why in record["not_measured"].items()})
    text = TEXT.format(
        references=first["references"],
        accuracy=" and ".join(f"{record['accuracy']:.0f}%" for record in records if record["accuracy"]),
        missing="Not measured here:\n\n" + "\n".join(f"- {words}." for words in said) if said else "",
        hardware=", ".join(sorted({record["hardware"] for record in records})),
        commits=", ".join(sorted({record["commit"] for record in records})),
    )
    no_blur = 100 * statistics.mean(record["shift"]["gap uniform"]["no_blur"] for record in records)
    parts = [
        text,
        "## Agreement with the order of strengths",
        agreement_table(records),
        f"![Spearman correlation]({folder.name}.png)",
        "## Shifted copies",
        SHIFT.format(no_blur=no_blur),
        shift_table(records),
        f"![Ratios of distances]({folder.name}_shift.png)",
        "## Spearman by kind of distortion",
        kind_table(records),
        "## Rank and Pearson loss",
        loss_table(records),
    ]
    folder.with_suffix(".md").write_text("\n\n".join(part.strip("\n") for part in parts) + "\n")
    draw(records, folder)


def interval(found: Record) -> Interval:
    """Return an interval from a record; what was not finite is not a number."""
    return Interval(*(float("nan") if found[key] is None else found[key] for key in ("value", "low", "high")))


def each(records: list[Record], name: str, read: Callable[[Record], Record], digits: int = 3) -> list[str]:
    """Return a cell for every seed."""
    found = [interval(read(record)) for record in records if name in record["distances"]]
    return [f"{i.value:.{digits}f} [{i.low:.{digits}f}, {i.high:.{digits}f}]" for i in found]


def seeds(records: list[Record], words: str) -> list[str]:
    """Return a heading for every seed."""
    return [f"{words}, seed {record['seed']}" for record in records]


def agreement_table(records: list[Record]) -> str:
    """Return Spearman's and Kendall's coefficients, and how far the first row is ahead."""
    rows = []
    for name in records[0]["distances"]:
        spearman = each(records, name, lambda record, name=name: record["distances"][name]["agreement"]["spearman"])
        kendall = [record["distances"][name]["agreement"]["kendall"]["value"] for record in records]
        lead = each(records, name, lambda record, name=name: record["distances"][name]["lead"])
        lead = ["-"] * len(lead) if name == "gap trained" else lead
        rows.append([label(name), *spearman, f"{statistics.mean(kendall):.3f}", *lead])
    head = ["distance", *seeds(records, "Spearman"), "Kendall, mean", *seeds(records, "GAP trained minus this")]
    return table(head, rows)


def shift_table(records: list[Record]) -> str:
    """Return the ratios over all shifts."""
    rows = []
    for name in records[0]["distances"]:
        if name not in records[0]["shift"]:
            continue
        cells = [
            each(records, name, lambda record, name=name, key=key: record["shift"][name][key], 2)
            for key in ("mean_noise", "mean_blur")
        ]
        rows.append([label(name), *cells[0], *cells[1]])
    return table(["distance", *seeds(records, "shift over noise"), *seeds(records, "over blur")], rows)


def kind_table(records: list[Record]) -> str:
    """Return Spearman's coefficient by kind, the mean of the seeds."""
    rows = []
    for name in records[0]["distances"]:
        found = [[record["distances"][name]["by_kind"][kind]["value"] for record in records] for kind in KINDS]
        rows.append([label(name), *(f"{statistics.mean(values):.3f}" for values in found)])
    return table(["distance", *KINDS], rows)


def loss_table(records: list[Record]) -> str:
    """Return Spearman's coefficient after training with either loss."""
    rows = []
    for name in records[0]["pearson_loss"]:
        rank = each(records, name, lambda record, name=name: record["distances"][name]["agreement"]["spearman"])
        pearson = each(records, name, lambda record, name=name: record["pearson_loss"][name]["spearman"])
        rows.append([label(name), *rank, *pearson])
    return table(["distance", *seeds(records, "rank"), *seeds(records, "Pearson")], rows)


def draw(records: list[Record], folder: Path) -> None:
    """Draw the agreement of all seeds, and the ratios of each."""
    names = list(records[0]["distances"])
    figure = new_figure(8.5, 1.2 + 0.45 * len(names))
    found = {name: [interval(r["distances"][name]["agreement"]["spearman"]) for r in records] for name in names}
    draw_agreement(
        figure.subplots(), found, "Spearman correlation on held-out references (a mark a seed), 95% interval"
    )
    save_png(figure, folder.with_suffix(".png"))
    figure = new_figure(10, 4.2 * len(records))
    for row, record in zip(figure.subplots(len(records), 2, squeeze=False, sharey=True), records, strict=True):
        for axes, what in zip(row, ("noise", "blur"), strict=True):
            ratios = {name: [interval(i) for i in record["shift"][name][what]] for name in names if name != "psnr"}
            draw_ratios(
                axes, record["shift"]["pixels"], ratios, f"shift over {what} of equal PSNR, seed {record['seed']}"
            )
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    save_png(figure, folder.with_name(f"{folder.name}_shift.png"))
