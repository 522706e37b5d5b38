"""Random damages of checkpoints: a run goes on from one that is bit-equal to what was written, or refuses clearly.

`pytest -m slow -rP tests/training/test_damages.py` does 1,000 to each tool and prints what came of them.
"""

import random
import shutil
from collections import Counter

import pytest
import torch

from ndpp_dense.training.run_folder import note_run

PAGE = 4096


def content_of(step, seed=0):
    """Everything that a run resumes from: weights, optimizer, random state, position."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    weights = {f"layer{number}.weight": torch.randn(40, 40, generator=generator) for number in range(3)}
    momenta = {number: {"momentum_buffer": torch.randn(40, 40, generator=generator)} for number in range(3)}
    optimizer = {"state": momenta, "param_groups": [{"lr": 0.1 / step, "params": [0, 1, 2]}]}
    return weights, {"optimizer": optimizer, "rng": [{"torch": generator.get_state()}], "done": step}


class Detectron2:
    names = ("model_0000004.pth", "model_0000009.pth", "model_0000014.pth")

    def __init__(self):
        checkpoint = pytest.importorskip(
            "ndpp_dense.integrations.detectron2.checkpoint", reason="Detectron2 is not installed"
        )
        self.checkpointer = checkpoint.NDCheckpointer

    def write(self, folder, seed=0):
        for step in (5, 10, 15):
            weights, rest = content_of(step, seed)
            model = torch.nn.Module()
            for name, value in weights.items():
                part = torch.nn.Module()
                part.register_buffer("weight", value)
                model.add_module(name.removesuffix(".weight"), part)
            run = self.checkpointer(model, str(folder), keep=3)
            run.save(f"model_{step - 1:07d}", iteration=step - 1, rest=rest)

    def resumed(self, folder):
        run = self.checkpointer(torch.nn.Linear(1, 1), str(folder))
        path = run._newest_sound()
        return path and {name: run._load_file(str(path))[name] for name in ("model", "rest")}


class MMEngine:
    names = ("iter_5.pth", "iter_10.pth", "iter_15.pth")

    def __init__(self):
        pytest.importorskip("mmengine", reason="mmengine is not installed")
        import ndpp_dense.integrations.mmengine  # noqa: F401
        from ndpp_dense.integrations.mmengine import checkpoint

        self.module = checkpoint

    def write(self, folder, seed=0):
        from mmengine.runner import save_checkpoint

        folder.mkdir(exist_ok=True)
        for step in (5, 10, 15):
            weights, rest = content_of(step, seed)
            state = {"state_dict": weights, "meta": {"iter": step}, "rest": rest}
            save_checkpoint(state, str(folder / f"iter_{step}.pth"), backend_args={"backend": self.module._BACKEND})
            (folder / "last_checkpoint").write_text(str(folder / f"iter_{step}.pth"))

    def resumed(self, folder):
        from mmengine.runner import CheckpointLoader

        path = self.module.newest_sound(folder)
        found = path and CheckpointLoader.load_checkpoint(path, "cpu")
        return found and {"model": found["state_dict"], "rest": found["rest"]}


class Pretraining:
    names = ("previous.pth", "last.pth")

    def __init__(self):
        self.module = pytest.importorskip("ndpp_dense.pretrain.checkpoint", reason="timm is not installed")

    def write(self, folder, seed=0):
        for step in (10, 15):
            weights, rest = content_of(step, seed)
            state = {"model": weights, "rest": rest, "done": step}
            self.module.save_checkpoint(folder / "last.pth", state, folder / "previous.pth")

    def resumed(self, folder):
        path = self.module.newest_sound(folder).path
        found = path and self.module.read_checkpoint(path)
        return found and {name: found[name] for name in ("model", "rest")}


def flip_a_bit(file, chance, _):
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def zero_a_page(file, chance, _):
    content = bytearray(file.read_bytes())
    start = PAGE * chance.randrange(1 + len(content) // PAGE)
    content[start : start + PAGE] = bytes(len(content[start : start + PAGE]))
    file.write_bytes(content)


def truncate(file, chance, _):
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


def random_bytes(file, chance, _):
    content = bytearray(file.read_bytes())
    start, length = chance.randrange(len(content)), chance.randrange(1, 600)
    content[start : start + length] = chance.randbytes(len(content[start : start + length]))
    file.write_bytes(content)


def duplicate_a_block(file, chance, _):
    content = file.read_bytes()
    start, length = chance.randrange(len(content)), chance.randrange(1, 600)
    file.write_bytes(content[: start + length] + content[start:])


def empty(file, *_):
    file.write_bytes(b"")


def append(file, chance, _):
    file.write_bytes(file.read_bytes() + chance.randbytes(chance.randrange(1, 300)))


def delete(file, *_):
    file.unlink()


def replace_by_another_runs(file, _, other):
    shutil.copy(other / file.name, file)


def replace_by_an_unsealed_one(file, _, other):
    torch.save(torch.load(other / file.name, weights_only=True), file)


CHECKPOINTS = (
    flip_a_bit, zero_a_page, truncate, random_bytes, duplicate_a_block, empty, append, delete,
    replace_by_another_runs, replace_by_an_unsealed_one,
)  # fmt: skip
RECORDS = (flip_a_bit, zero_a_page, truncate, random_bytes, empty, delete)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def harm(folder, tool, chance, other):
    """Damage the newest one, two or all checkpoints, or what points at them; returns what was done and to what."""
    what, count = chance.random(), 1
    if what < 0.15:
        files = [name for name in ("last_checkpoint", "run.json") if (folder / name).exists()]
        file = folder / chance.choice(files)
        damage = chance.choice(RECORDS)
        damage(file, chance, other)
        return damage.__name__, file.name, set()
    count = 1 if what < 0.75 else 2 if what < 0.9 else len(tool.names)
    damage = chance.choice(CHECKPOINTS)
    harmed = set(tool.names[-count:])
    before = {name: (folder / name).read_bytes() for name in harmed}
    for name in harmed:
        damage(folder / name, chance, other)
    changed = {name for name in harmed if not (folder / name).exists() or (folder / name).read_bytes() != before[name]}
    if what > 0.97 and "replace" not in damage.__name__:  # a folder of another run alone is that run's
        (folder / "run.json").unlink()
    return damage.__name__, f"{count} of {len(tool.names)}", changed


def outcome(folder, tool, originals, changed):
    """What came of it, or an assertion."""
    try:
        found = tool.resumed(folder)
    except ValueError as error:
        message = str(error)
        assert message.endswith("."), message
        assert "--resume" in message, message
        return "refused"
    if found is None:
        assert not any((folder / name).exists() for name in tool.names), "a silent start from the beginning"
        return "nothing there"
    equal = [step for step, content in originals.items() if same(found, content)]
    assert equal, "went on from something that was never written"
    whole = [name for name in tool.names if name not in changed]
    steps = dict(zip(tool.names, list(originals)[-len(tool.names) :], strict=True))
    assert equal[0] in [steps[name] for name in whole], "went on from a damaged checkpoint"
    return "fell back" if changed else "the newest"


def tried(tool, count, tmp_path, seed=0):
    whole, other = tmp_path / "whole", tmp_path / "other"
    for folder, number in ((whole, 0), (other, 1)):
        tool.write(folder, number)
    note_run(whole, sealed=True)
    originals = {step: dict(zip(("model", "rest"), content_of(step), strict=True)) for step in (5, 10, 15)}
    assert same(tool.resumed(whole), originals[15])
    table, chance = Counter(), random.Random(seed)
    for number in range(count):
        folder = tmp_path / "run"
        shutil.copytree(whole, folder)
        kind, where, changed = harm(folder, tool, chance, other)
        try:
            table[kind, where, outcome(folder, tool, originals, changed)] += 1
        except Exception as error:
            raise AssertionError(f"damage {number}: {kind} of {where}, changed {sorted(changed)}: {error!r}") from error
        shutil.rmtree(folder)
    return table


TOOLS = pytest.mark.parametrize("tool", [Detectron2, MMEngine, Pretraining])


@TOOLS
def test_some_damages(tool, tmp_path):
    table = tried(tool(), 60, tmp_path)
    assert table.total() == 60


@pytest.mark.slow
@TOOLS
def test_a_thousand_damages(tool, tmp_path, capsys):
    table = tried(tool(), 1000, tmp_path, seed=2022)
    with capsys.disabled():
        lines = [f"{kind:28} {where:16} {what:14} {table[kind, where, what]:4}" for kind, where, what in sorted(table)]
        total = Counter()
        for (_, _, what), number in table.items():
            total[what] += number
        print(f"\n{tool.__name__}: {table.total()} tried: {dict(total)}", *lines, sep="\n")  # noqa: T201
