"""What records say, in words and Markdown; imports nothing heavy, so that it works where torch does not."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from records import table

Record = dict[str, Any]


def ratios(case: Record) -> str:
    """One line: the value of the baseline and the ratios to it."""
    if not case["peers"]:
        return "nothing measured"
    first, *others = case["peers"]
    found = ", ".join(f"{label} {case['peers'][label]['ratio']:.3f}" for label in others)
    return f"{first} {case['peers'][first]['median']:.4g} {case['unit']}{'; over it: ' if found else ''}{found}"


def said(record: Record) -> str:
    """Where, when and how a record was made."""
    made = record["machine"]
    rounds = ", ".join(str(case["rounds"]) for case in record["cases"] if "rounds" in case)
    return (
        f"`{record['command']}`\n\n{made['hardware']}, torch {made['torch']}, commit {made['commit']}; load average "
        f"{made['load'][0]:.1f} before, {record['load_after'][0]:.1f} after; rounds: {rounds}."
    )


def result_tables(record: Record) -> list[str]:
    """A table for each quantity and set of peers: the median ratio to the baseline with its quartiles, a column a case.

    Of the baseline, the median itself. What is not a time is exact: there the value stands, with its ratio in brackets.
    """
    measured = [case for case in record["cases"] if case["peers"]]
    alike = groupby(measured, key=lambda case: (case["unit"], tuple(case["peers"])))
    return [_result_table(record["says"], list(cases)) for _, cases in alike]


def _result_table(says: str, cases: list[Record]) -> str:
    rows = [[label, *(_cell(case, label) for case in cases)] for label in cases[0]["peers"]]
    shown = "ratio (quartiles)" if cases[0]["unit"] == "s" else "value (ratio)"
    return table([f"{says}: {shown}", *(case["name"] for case in cases)], rows)


def _cell(case: Record, label: str) -> str:
    peer = case["peers"][label]
    if label == next(iter(case["peers"])):
        return f"{peer['median']:.4g} {case['unit']}"
    if case["unit"] != "s":
        return f"{peer['median']:.4g} ({peer['ratio']:.3f})"
    return "{:.3f} ({:.3f}-{:.3f})".format(peer["ratio"], *peer["ratio_quartiles"])


def remarks(record: Record) -> list[str]:
    """What was not measured, and what was odd about the rest."""
    lines = sorted(set(_remarks(record)))
    return ["Not measured, or with a remark:\n\n" + "\n".join(f"- {line}" for line in lines)] if lines else []


def _remarks(record: Record) -> Iterator[str]:
    for case in record["cases"]:
        if "failed" in case:
            yield f"{case['name']}: {case['failed']}"
        for label, why in [*case["skipped"].items(), *case.get("notes", {}).items()]:
            yield f"{label} ({case['name']}): {why}"


def profile_table(record: Record) -> str:
    """Seconds and shares of the parts of a step."""
    rows = []
    for label, parts in record["profile"].items():
        total = sum(filter(None, parts.values()))
        cells = ["not measured" if value is None else f"{value / total:.0%}" for value in parts.values()]
        rows.append([label, f"{total:.4g}", *cells])
    first = next(iter(record["profile"].values()))
    return table([f"parts of a step ({record['profile_case']})", "s", *first], rows)
