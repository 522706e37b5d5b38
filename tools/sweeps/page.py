"""The page made of the records of a sweep."""

from collections import Counter
from pathlib import Path
from typing import Any

from records import table

__all__ = ["write"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conversion.md"
Record = dict[str, Any]
INTRODUCTION = """# Which models convert

Written by `python tools/sweep.py table` from [results/sweep.json](results/sweep.json), which
`python tools/sweep.py run` measures ({hardware}; commits {commits}). All weights are random, biases, scales and
statistics too.

Of each model it is proven that conversion loses nothing. With D = I and no local scale the converted model must be the
original with its dropped norms passed through: the output of every linear layer, the outputs of the model, the
gradients of all parameters, and outputs in training mode; and so must the folded model. Numbers agree to 1e-2 in
float32; where they do not, to 1e-6 in float64. A layer that is converted and never runs is named.

- **right**: all of it holds.
- **idle**: it holds, and some converted layers ran neither in evaluation nor in training on this input, as auxiliary
  heads that run with the loss alone. `report.verify` and the integrations' check name them.
- **refused**: conversion ends in a message.
- **wrong**: something differs, without a word.
- **absent**: the original does not build or run here: it needs what is not installed, other inputs, or a compiled
  operation.
"""


def write(measured: dict[str, Any]) -> None:
    """Write docs/conversion.md."""
    records = measured["models"]
    commits = ", ".join(sorted({record["commit"] for record in records}))
    introduction = INTRODUCTION.format(hardware=measured["hardware"], commits=commits).rstrip()
    parts = [introduction, summary(records), "## Reasons", reasons(records)]
    for suite in dict.fromkeys(record["suite"] for record in records):
        parts += [f"## {suite}", models([record for record in records if record["suite"] == suite])]
    PAGE.write_text("\n\n".join(parts) + "\n")


def summary(records: list[Record]) -> str:
    """Return the numbers by library."""
    states = ("right", "idle", "refused", "wrong", "absent")
    suites = dict.fromkeys(record["suite"] for record in records)
    rows = []
    for suite in suites:
        own = Counter(record["status"] for record in records if record["suite"] == suite)
        rows.append([suite, str(own.total()), *(str(own[state]) for state in states)])
    total = Counter(record["status"] for record in records)
    rows.append(["**all**", str(total.total()), *(f"**{total[state]}**" for state in states)])
    return table(["library", "models", *states], rows)


def reasons(records: list[Record]) -> str:
    """Return why layers stay plain and norms are kept, in all models together."""
    rows = []
    for what, key in (("layers left", "left"), ("norms kept", "kept")):
        found: Counter[str] = Counter()
        where: Counter[str] = Counter()
        for record in records:
            found.update(_general(record.get(key, {})))
            where.update(_general(record.get(key, {})).keys())
        rows += [[what, reason, str(count), str(where[reason])] for reason, count in found.most_common(12)]
    return table(["what", "reason", "how many", "in models"], rows)


def _general(found: dict[str, int]) -> Counter[str]:
    """Reasons without the names of layers in them."""
    general: Counter[str] = Counter()
    for reason, count in found.items():
        general["belongs to a layer that stays" if reason.startswith("belongs to") else reason] += count
    return general


def models(records: list[Record]) -> str:
    """Return the models of one library."""
    rows = []
    for record in records:
        counts = record.get("counts", {})
        numbers = [str(counts.get(action, 0)) for action in ("converted", "left", "dropped", "kept")]
        said = (record.get("message") or "; ".join(record.get("left", {}))).replace("|", "/").replace("\n", " ")
        rows.append([record["name"], record["status"], *(numbers if counts else "-" * 4), said[:160]])
    return table(["model", "", "converted", "left", "dropped", "kept", "reasons or message"], rows)
