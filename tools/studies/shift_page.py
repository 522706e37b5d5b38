"""The page and the figure of the comparison of shifts, from its records."""

import json
import statistics
import textwrap

from records import table

from studies.shift import EPOCHS, FOLDER, LIMITS, METHODS, VGG_RATE
from studies.shift_figure import (
    CHANCE,
    FINE_CHANCE,
    Groups,
    draw,
    figure_of,
    fine_harmonics,
    harmonics,
    mean_agreement,
    spread,
    swing,
)

HALVED = 0.6  # ratio up to which a loss counts as halved
TEXT = """# How much small classifiers lose when their pictures move

Siblings trained from scratch on images of 64 x 64 pixels (1,300 training and 300 validation images of ten ImageNet
classes): {epochs} epochs of batches of 32, SGD with momentum 0.9, learning rate 0.1, random crops (a quarter to all of
the area) and flips, the same for every row (`configs/imagenet/_base_/small.yaml`), but for the learning rate of VGG:
{rate}, since the one run with 0.1 ended at 22.0 % (seed 1). "VGG-16/4" has a quarter of
VGG-16's channels, and batch norms to train from scratch: no pretrained weights were at hand. It is trained as a whole
with its flattened map read out, as VGG-16 was; then its convolutions are frozen, and each read-out is trained on them
for {epochs} epochs more (`trainable=head.*`).

**Shifts of up to 16 pixels**, a quarter of a side (the paper: 50 of 256), in steps of 2 along both axes on a mirror
mosaic; {mirror} images. "Loss" is the mean over all shifts but 0 of `1 - A(s) / A(0)`, A being top-1 accuracy; its 95 %
interval is a bootstrap over images, its ends averaged over the seeds. "Agreement" is the mean share of answers that a
shift leaves as they are. **Harmonics**: the share of AC energy on multiples of 1/32 in the curve of the probability of
the unshifted answer ("confidence") over 64 circular shifts of {circular} images; white noise would have {chance:.0f} %.
"Fine" is that on multiples of 1/8, where the strides of the first stages repeat, among frequencies above 1/16 alone,
which slow trends do not reach; white noise would have {fine:.0f} % (a measure chosen after the first figure was seen).
Mean over the seeds, the seeds' own values in brackets, in per cent; one value is of seed 1 alone.

Written by `python tools/study.py shift table` from the JSON files in `shift/`, one a run; the runs by
`python tools/study.py shift run --data TAR`.

Hardware: {hardware}. Code: {commits} (`+`: with edits).
"""
DETAILS = """## A detector and a segmentor

The demo models of the model zoo, on a mirror mosaic, in per cent; harmonics of 1/8 for the segmentor, whose white noise
would have 23 %. Boxes come and go with a shift of 8 pixels where average precision hardly changes; the label map
repeats with the stride to the right.

```bash
ndpp shift --weights ndpp://mask_rcnn_ndpp_demo --shifts -24..24 --step 8 --along grid --limit 40
ndpp shift --weights ndpp://deeplabv3_ndpp_demo --shifts -16..16 --along cross --limit 20
```

{table}

![Mask R-CNN](shift_detector.png)

![DeepLabv3](shift_segmentor.png)
"""


def write() -> None:
    """Write ``shift.md`` and ``shift.png``."""
    records = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*_seed*.json"))]
    if not records:
        raise SystemExit(f"no records in {FOLDER}: run `python tools/study.py shift run` first")
    groups = {method: [r for r in records if r["method"] == method] for method in METHODS}
    groups = {method: group for method, group in groups.items() if group}
    head = TEXT.format(
        epochs=EPOCHS,
        rate=VGG_RATE,
        chance=CHANCE,
        fine=FINE_CHANCE,
        **LIMITS,
        hardware=", ".join(sorted({r["hardware"] for r in records})),
        commits=", ".join(sorted({r["commit"] for r in records})),
    )
    reused = sorted({METHODS[r["method"]].label for r in records if "note" in r})
    note = f"Not trained again, but by the runs of the studies calibration and pooling: {'; '.join(reused)}."
    parts = [head, result_table(groups), note if reused else "", "![loss and spectra](shift.png)", claims(groups)]
    if (FOLDER / "detector.json").exists():
        parts.append(DETAILS.format(table=framework_table()))
    text = "\n\n".join(part.strip("\n") for part in parts if part)
    FOLDER.with_suffix(".md").write_text(text + "\n")
    draw(groups)


def result_table(groups: Groups) -> str:
    """Return the table of methods."""
    rows = []
    for method, group in groups.items():
        ends = [r["mirror"]["measures"]["accuracy"]["mean_relative_loss_95"] for r in group]
        low, high = (100 * statistics.mean(values) for values in zip(*ends, strict=True))
        rows.append(
            [
                METHODS[method].label,
                f"{group[0]['trained']:,}",
                f"{group[0]['parameters']:,}",
                spread([figure_of(r, "mirror", "accuracy", "at_zero") for r in group]),
                spread([figure_of(r, "mirror", "accuracy", "mean_relative_loss") for r in group]),
                f"{low:.1f} to {high:.1f}",
                spread([figure_of(r, "mirror", "accuracy", "worst_relative_loss") for r in group]),
                spread([mean_agreement(r) for r in group]),
                spread([harmonics(r, "confidence") for r in group]),
                spread([fine_harmonics(r) for r in group]),
            ]
        )
    head = ["network", "trained", "parameters", "top-1", "loss", "95 %", "worst loss", "agreement", "harmonics", "fine"]
    return table(head, rows)


def framework_table() -> str:
    """Return the table of the detector and the segmentor."""
    rows = []
    for name in ("detector", "segmentor"):
        record = json.loads((FOLDER / f"{name}.json").read_text())
        for measure, found in record["measures"].items():
            low, high = found["mean_relative_loss_95"]
            shares = [f"{axis} {100 * s['harmonic_share']:.1f}" for axis, s in found["spectrum"].items()]
            figures = [found["at_zero"], found["mean_relative_loss"], low, high, found["worst_relative_loss"]]
            zero, loss, low, high, worst = (f"{100 * value:.1f}" for value in figures)
            size = f"{record['images']} images, {len(record['shifts'])} shifts"
            rows.append([record["name"], size, measure, zero, f"{loss} ({low} to {high})", worst, ", ".join(shares)])
    return table(["model", "", "measure", "no shift", "loss (95 %)", "worst", "harmonics"], rows)


def claims(groups: Groups) -> str:
    """Return what of the paper holds here, from the figures."""
    lines = ["## What of the paper holds here", *_halved(groups), *_parameters(groups), *_aliasing(groups)]
    return "\n\n".join(textwrap.fill(line, 120, break_on_hyphens=False) for line in lines)


def _losses(groups: Groups, method: str) -> list[float]:
    return [figure_of(r, "mirror", "accuracy", "mean_relative_loss") for r in groups.get(method, [])]


def _halved(groups: Groups) -> list[str]:
    """Compare read-outs, in accuracy and in answers that change; what is not above 0 for sure cannot be halved."""
    flat, gap = _losses(groups, "vgg_flatten"), _losses(groups, "vgg_gap")
    if not flat or not gap:
        return []
    low = [100 * r["mirror"]["measures"]["accuracy"]["mean_relative_loss_95"][0] for r in groups["vgg_flatten"]]
    changed = [[100 - mean_agreement(r) for r in groups[m]] for m in ("vgg_flatten", "vgg_gap")]
    held = [
        min(low) > 0 and statistics.mean(gap) <= HALVED * statistics.mean(flat),
        statistics.mean(changed[1]) <= HALVED * statistics.mean(changed[0]),
    ]
    accuracy, answers = ("holds" if holds else "does not hold" for holds in held)
    return [
        f"**GAP halves the loss: in accuracy it {accuracy}, in answers it {answers}.** Final-GAP loses {spread(gap)} % "
        f"of its accuracy, the flattened map {spread(flat)} % (the paper: 5 and 9). A shift changes "
        f"{spread(changed[1])} % of the answers of final-GAP and {spread(changed[0])} % of the flattened map's. It "
        f"counts as held where the ratio of the means is at most {HALVED}, and for accuracy where the flattened map's "
        "loss is above 0 with 95 % "
        "confidence in every seed. A network that is often wrong loses little accuracy by changing its "
        "answer; and the last map has 2 x 2 pixels here, 8 x 8 in the paper, so that there is less position to forget."
    ]


def _parameters(groups: Groups) -> list[str]:
    if not all(name in groups for name in ("vgg_flatten", "vgg_gap")):
        return []
    flat, gap = groups["vgg_flatten"][0], groups["vgg_gap"][0]
    tops = [[figure_of(r, "mirror", "accuracy", "at_zero") for r in groups[m]] for m in ("vgg_flatten", "vgg_gap")]
    fewer = 100 * (1 - gap["trained"] / flat["trained"])
    return [
        "**Parameters are cut: the counts hold, the 90 % needs a reading.** At the paper's size final-GAP trains "
        "82,080 parameters instead of 5,243,040 (98.4 % fewer, exactly as published; a test counts them), but its "
        "network has 14,796,768 instead of 19,957,728, 26 % fewer: the 90 % are against the 138 million of VGG-16 with "
        f"its own classifier. Here it trains {gap['trained']:,} instead of {flat['trained']:,} ({fewer:.0f} % fewer), "
        f"since the last map has only 2 x 2 pixels; top-1 is {spread(tops[1])} with final-GAP and {spread(tops[0])} "
        "flattened."
    ]


def _aliasing(groups: Groups) -> list[str]:
    above = [METHODS[m].label for m, group in groups.items() if min(map(fine_harmonics, group)) > FINE_CHANCE]
    whole = [METHODS[m].label for m, g in groups.items() if min(harmonics(r, "confidence") for r in g) > CHANCE]
    few = len(above) < len(groups)
    moving = "; ".join(f"{METHODS[m].label} {statistics.mean(map(swing, group)):.1f}" for m, group in groups.items())
    words = "holds" if len(above) > len(groups) / 2 else "does not show"
    return [
        f"**Residual aliasing: {words}.** Among fine frequencies the energy on multiples of 1/8 is above that of white "
        f"noise in every seed of {len(above)} of {len(groups)} networks{': ' * few}{'; '.join(above * few)}. Of "
        "all the energy, the share on multiples of 1/32 is above white noise in "
        f"{'; '.join(whole) or 'none'}: most of what "
        "varies is slower than the stride, since zero padding sees the seam that a circular shift moves through the "
        "picture. Where convolutions pad circularly too nothing else is left: the answer of a GAP read-out then "
        "repeats in its stride exactly, and changes in between (`tests/robustness/shift/test_aliasing.py`). Standard "
        f"deviation of confidence over circular shifts, in points: {moving}."
    ]
