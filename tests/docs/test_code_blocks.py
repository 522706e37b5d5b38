"""Every block of code in README and site: Python runs, commands are understood by the parsers that read them."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, blocks, commands, name
from doc_setups import INSTEAD, ready

from ndpp_dense.cli.main import COMMANDS
from ndpp_dense.cli.parsing import Parser
from ndpp_dense.config_files import find_config

LANGUAGES = {"python", "bash", "yaml", "text", "bibtex"}
CONFIGS = {"docs/start/segmentor.md", "docs/guides/mmsegmentation.md"}  # whose Python is a config of MMEngine
NEEDS = {"docs/guides/detectron2.md": "detectron2"}
STANDS_FOR_ANY = {"CONFIG", "NAME", "FILE"}  # names in capitals that a reader replaces
WITH_PYTHON = [page for page in PAGES if blocks(page, "python") and name(page) not in CONFIGS]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_name_their_language(page):
    assert {block.language for block in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_runs(page, tmp_path, monkeypatch):
    pytest.importorskip("timm", reason="timm is not installed: pip install -e '.[pretrain]'")
    needed = NEEDS.get(name(page), "torch")
    pytest.importorskip(needed, reason=f"{needed} is not installed: see docs/start/install.md")
    monkeypatch.chdir(tmp_path)
    names = ready(name(page), tmp_path)
    for block in blocks(page, "python"):
        text = block.text
        for words, others in INSTEAD.get(name(page), {}).items():
            text = text.replace(words, others)
        code = compile("\n" * (block.line - 1) + text, name(page), "exec")  # errors then name the line of the page
        exec(code, names)  # noqa: S102


@pytest.mark.mmseg
@pytest.mark.parametrize("page", sorted(CONFIGS))
def test_configs_are_read(page, tmp_path):
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed: pip install -e '.[mmseg]'")
    from mmengine.config import Config

    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (block,) = blocks(ROOT / page, "python")
    (tmp_path / "mine.py").write_text(block.text)
    config = Config.fromfile(tmp_path / "mine.py")
    assert config.model.type == "NDPPModel"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=name)
def test_commands_are_understood(page):
    assert [fault for words in commands(page) if (fault := fault_of(words))] == []


def fault_of(words):
    """What is wrong with a command, or None."""
    while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
        words = words[1:]
    if words[0] in ("torchrun", "srun"):
        words = ["ndpp", *words[words.index("ndpp_dense.cli") + 1 :]]
    known = {
        "ndpp": ndpp_fault,
        "make": make_fault,
        "pip": pip_fault,
        "python": file_fault,
        "pytest": file_fault,
        "sbatch": file_fault,
        ".venv/bin/pre-commit": lambda _: None,
    }
    return known[words[0]](words[1:]) if words[0] in known else f"unknown command: {' '.join(words)}"


def ndpp_fault(words):
    if words[0] not in COMMANDS:
        return f"no command: ndpp {words[0]}"
    module = import_module(f"ndpp_dense.cli.{COMMANDS[words[0]][0]}")
    parser = Parser(prog=f"ndpp {words[0]}")
    module.add_arguments(parser)
    try:
        args = parser.parse(words[1:])
    except SystemExit:
        return f"not understood: ndpp {' '.join(words)}"
    config = getattr(args, "config", None)
    if config in (None, "leaves.py") or config in STANDS_FOR_ANY:
        return None
    try:
        return settings_fault(words[0], str(find_config(config)), args)
    except (FileNotFoundError, KeyError, ValueError) as error:
        return f"ndpp {' '.join(words)}: {error}"


def settings_fault(command, config, args):
    """None if the settings of a command are those of its config; else the config's reader raises."""
    if command == "train-det" and args.overrides:
        pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
        from detectron2.config import get_cfg

        from ndpp_dense.integrations.detectron2.config import add_ndpp_config
        from ndpp_dense.integrations.detectron2.run_config import merge_config

        merge_config(add_ndpp_config(get_cfg()), Path(config), args.overrides)
    if command == "pretrain":
        pytest.importorskip("timm", reason="timm is not installed: pip install -e '.[pretrain]'")
        from ndpp_dense.pretrain.config_loading import load_config

        load_config(config, args.overrides)
    return


def make_fault(words):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    missing = [word for word in words if "=" not in word and word not in targets]
    return f"make has no target {missing[0]}" if missing else None


def pip_fault(words):
    """None if the extras that a command names exist."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
    extras = set(re.findall(r"^([a-z0-9]+) = \[", text.split("\n[tool")[0], flags=re.MULTILINE))
    asked = {extra for word in words for found in re.findall(r"\.\[(.*)\]", word) for extra in found.split(",")}
    return f"no extra: {sorted(asked - extras)}" if asked - extras else None


def file_fault(words):
    """None if the files that a command names are there, and its options in the source beside them."""
    files = [word for word in words if re.fullmatch(r"(tools|tests|examples)/\S+\.(py|sbatch)", word)]
    missing = [file for file in files if not (ROOT / file).is_file()]
    if missing or not files:
        return f"no file: {missing or words}"
    if files[0].startswith("tests"):
        return None
    source = "".join(path.read_text() for path in (ROOT / files[0]).parent.rglob("*.py"))
    strange = [word for word in words if word.startswith("--") and f'"{word}"' not in source]
    return f"{files[0]} has no option {strange}" if strange else None


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("ndpp train-dat --config mask_rcnn_ndpp", "no command"),
        ("ndpp train-det --config mask_rcnn_ndpq", "mask_rcnn_ndpq"),
        ("ndpp train-det --config mask_rcnn_ndpp --gpus 8", "not understood"),
        ("ndpp train-det --config mask_rcnn_ndpp SOLVER.LR 0.1", "SOLVER.LR"),
        ("ndpp pretrain --config resnet50_ndpp_bs256 --data x learning=1", "learning"),
        ("make dmo", "no target dmo"),
        ("pip install -e '.[detectron]'", "no extra"),
        ("python tools/studies.py table", "no file"),
        ("python examples/onnx_deployment.py --out x", "no option"),
        ("torchrun --nproc-per-node 8 -m ndpp_dense.cli train-sog", "no command"),
        ("rm -r output", "unknown command"),
    ],
)
@pytest.mark.detectron2
def test_a_wrong_command_would_be_seen(line, fault, capsys):
    import shlex

    assert fault in (fault_of(shlex.split(line)) or "")


def test_the_reference_has_an_example_of_every_public_name():
    import ndpp_dense

    page = ROOT / "docs" / "reference" / "python.md"
    text = page.read_text(encoding="utf-8")
    shown = set(re.findall(r"auto(?:function|class):: ndpp_dense\.(\w+)", text))
    tree = ast.parse("\n".join(block.text for block in blocks(page, "python")))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    public = set(ndpp_dense.__all__) - {"__version__"}
    assert shown == public
    assert public <= used
