#!/usr/bin/env python
"""Write the reference of commands and config keys from the code that reads them.

    python tools/reference.py

writes docs/reference/commands.md and docs/reference/config_keys.md. A test compares the pages with the code.
"""

import argparse
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import import_module
from typing import Any

from records import ROOT, table
from reference_keys import BACKBONE_KEYS, NODE_KEYS, SECTION_KEYS, VARIABLES

from ndpp_dense.cli.main import COMMANDS
from ndpp_dense.cli.parsing import Parser
from ndpp_dense.layers import WhiteningConfig

FOLDER = ROOT / "docs" / "reference"
QUOTES = '""'
MADE = "Written by `python tools/reference.py` from the code; do not edit this page."


def main() -> None:
    """Write both pages."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


def commands_page() -> str:
    """Return the page of the commands: what each does, its examples and its options."""
    parts = ["# Commands", MADE]
    parts += ["`ndpp COMMAND --help` shows the same. Words that are wrong end in one line and exit code 2."]
    for name, (home, summary) in COMMANDS.items():
        module = import_module(f"ndpp_dense.cli.{home}")
        parser = Parser(prog=f"ndpp {name}", description=module.__doc__)
        module.add_arguments(parser)
        parts += [f"## ndpp {name}", f"{summary[0].upper()}{summary[1:]}.", *described(module.__doc__ or "")]
        nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        parts += [options_table(parser)] if not nested else []
        for action in nested:
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for word, inner in action.choices.items():
                parts += [f"### ndpp {name} {word}", f"{helps[word]}.".capitalize(), options_table(inner)]
    return "\n\n".join(part for part in parts if part) + "\n"


def described(text: str) -> Iterator[str]:
    """Yield the paragraphs of a module's docstring after its first, examples as blocks of code."""
    for part in inspect.cleandoc(text).split("\n\n")[1:]:
        if part.startswith("    "):
            yield f"```bash\n{textwrap.dedent(part)}\n```"
        elif part != "Examples::":
            yield part.replace("``", "`")


def options_table(parser: argparse.ArgumentParser) -> str:
    """Return the table of what a parser takes; empty where it takes nothing of its own."""
    shown = [a for a in parser._actions if a.help != argparse.SUPPRESS and a.dest not in ("help", "traceback")]
    return table(("option", "meaning"), [(f"`{spelled(a)}`", meaning(a)) for a in shown]) if shown else ""


def spelled(action: argparse.Action) -> str:
    """Return an option with its value, as it is typed."""
    names = {"A": " [...]", "*": " [...]", "+": " ..."}
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else None)
    value = " ".join(value) if isinstance(value, tuple) else value or action.dest.upper()
    if not action.option_strings:
        return f"{value}{names.get(str(action.nargs), '')}".replace("|", "\\|")
    word = ", ".join(action.option_strings)
    takes = action.nargs != 0
    return f"{word}{f' {value}' if takes else ''}{names.get(str(action.nargs), '')}".replace("|", "\\|")


def meaning(action: argparse.Action) -> str:
    """Return what an option means, with its default where the words do not name it."""
    words = (action.help or "").replace("|", "\\|").replace("<", "\\<")
    default = action.default
    named = default in (None, False, "", [], argparse.SUPPRESS) or "default" in words
    shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
    extra = "" if named else f"default: `{shown}`"
    extra = "required" if action.required and action.option_strings else extra
    return "; ".join(part for part in (words, extra) if part)


def keys_page() -> str:
    """Return the page of the config keys, one part a place where they stand."""
    return "\n\n".join(["# Config keys", MADE, *whitening_part(), *detectron2_part(), *other_parts()]) + "\n"


def whitening_part() -> Iterator[str]:
    """Yield the fields of ``WhiteningConfig``, with the values of both presets."""
    fast, paper = WhiteningConfig.fast(), WhiteningConfig.paper()
    told = attributes(WhiteningConfig)
    rows = [
        (f"`{f.name}`", f"`{getattr(fast, f.name)}`", f"`{getattr(paper, f.name)}`", told[f.name])
        for f in fields(WhiteningConfig)
    ]
    yield "## WhiteningConfig"
    yield (
        "How a layer whitens. The same fields stand in upper case under `MODEL.NDPP` of Detectron2, and in lower case "
        "under `ndpp` of MMSegmentation and of pretraining; there a field that is not set is as the preset has it. "
        "`sampling_stride` is 5 for the tasks `coco` and `cityscapes`."
    )
    yield table(("field", "`fast`", "`paper`", "meaning"), rows)


def detectron2_part() -> Iterator[str]:
    """Yield the keys that this package adds to a Detectron2 config."""
    from detectron2.config import get_cfg

    from ndpp_dense.integrations.detectron2 import config

    cfg = config.add_ndpp_config(get_cfg())
    yield "## Detectron2"
    rows = [(f"`MODEL.NDPP.{key}`", f"`{str(cfg.MODEL.NDPP[key]) or '{}'}`", words) for key, words in NODE_KEYS.items()]
    for key, words in BACKBONE_KEYS.items():
        node, name = key.split(".")
        rows += [(f"`MODEL.{key}`", f"`{cfg.MODEL[node][name] or QUOTES}`", words)]
    rows += [(f"`{key}`", f"`{default}`", words) for key, default, words in commented(config.add_trainer_config)]
    yield table(("key", "default", "meaning"), rows)


def commented(function: Callable[..., Any]) -> Iterator[tuple[str, str, str]]:
    """Yield key, default and comment of each ``cfg.KEY = value`` in a function."""
    comment: list[str] = []
    for line in inspect.getsource(function).splitlines():
        words = line.strip()
        if words.startswith("#"):
            comment.append(words.removeprefix("#").strip())
        elif found := re.match(r"cfg\.([A-Z_.0-9]+) = (.*)", words):
            yield found[1], found[2].strip('"') or QUOTES, " ".join(comment).replace('"', "`")
            comment = []


def other_parts() -> Iterator[str]:
    """Yield the keys of MMSegmentation and pretraining, and the variables of the environment."""
    from ndpp_dense.pretrain.config import PretrainConfig

    yield "## MMSegmentation"
    yield '`model = dict(type="NDPPModel", ndpp=dict(...))` takes these keys and every field of `WhiteningConfig`:'
    yield table(("key", "meaning"), [(f"`{key}`", words) for key, words in SECTION_KEYS.items()])
    yield "## Pretraining"
    yield "Keys of the configs in `configs/imagenet`, and words of `ndpp pretrain` such as `lr=0.2`."
    told = attributes(PretrainConfig)
    rows = [(f"`{f.name}`", f"`{f.default!r}`", told[f.name]) for f in fields(PretrainConfig)]
    yield table(("key", "default", "meaning"), rows)
    yield "## Environment"
    yield table(("variable", "meaning"), [(f"`{name}`", words) for name, words in VARIABLES.items()])


def attributes(kind: type) -> dict[str, str]:
    """Return what the docstring of a class says of each attribute, as Markdown in one line."""
    part = inspect.cleandoc(kind.__doc__ or "").split("Attributes:\n")[1]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*|\n(?=\n))*)", part, flags=re.MULTILINE)
    roles = re.compile(r":\w+:`~?([^`]+)`")
    return {name: roles.sub(r"`\1`", " ".join(words.split())).replace("``", "`") for name, words in entries}


PAGES: dict[str, Callable[[], str]] = {"commands.md": commands_page, "config_keys.md": keys_page}

if __name__ == "__main__":
    main()
