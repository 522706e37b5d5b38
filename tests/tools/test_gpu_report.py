"""The command that measures everything on a GPU, rehearsed on the CPU, and the page made from what it leaves."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import gpu_report
import pytest
from bench import report as bench_report
from bench import suites as bench_suites
from bench.gpu import page as gpu_page
from bench.gpu import summary as gpu_summary
from bench.gpu import worker as gpu_worker
from bench.gpu.plan import PLAN
from bench.gpu.runner import Part, State
from bench.tables import said

ROOT = gpu_report.ROOT
SCRIPT = ROOT / "tools" / "gpu_report.py"
FRAMEWORKS = ("timm", "detectron2", "mmseg")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _command(output, *words):
    kit = output.parent / "no kit"
    return [sys.executable, str(SCRIPT), "--rehearse", "--output", str(output), "--kit", str(kit), *words]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """The output folder of a whole rehearsal, and what it printed."""
    for module in FRAMEWORKS:
        pytest.importorskip(module)
    output = tmp_path_factory.mktemp("rehearsal") / "output"
    words = _command(output, "--minutes", "25")  # an idle core needs 90 s of them
    done = subprocess.run(words, env=ENVIRONMENT, cwd=output.parent, capture_output=True, text=True, check=False)
    log = output / gpu_summary.LOG
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    return output, done.stdout


def _records(output):
    return {record["suite"]: record for record in (json.loads(path.read_text()) for path in output.glob("*.json"))}


@pytest.mark.timeout(1700)
def test_every_part_is_reached_and_done(rehearsal):
    output, printed = rehearsal
    records = _records(output)
    assert {name: part["state"] for name, part in records["gpu"]["parts"].items()} == dict.fromkeys(PLAN, "done")
    assert set(records) == {"gpu", *(name for name, part in PLAN.items() if part.suite)}
    for name, part in PLAN.items():
        assert re.search(rf"^\| {name} \| done \|", printed, re.MULTILINE)
        if part.suite:
            assert records[name]["says"] == part.says
            # What a CPU cannot do says so; nothing else is missing.
            for case in records[name]["cases"]:
                assert set(case["skipped"].values()) <= {"NotImplementedError: no CUDA graph: torch sees no GPU"}
                assert bool(case["skipped"]) == ("CUDA graphs" in case["name"])
    assert "kit: no wheels in no kit" in printed


@pytest.mark.timeout(1700)
def test_what_was_asked_for_is_in_the_records(rehearsal):
    records = _records(rehearsal[0])
    peers = {name: {case["name"].split(",")[0]: list(case["peers"]) for case in records[name]["cases"]} for name in
             ("backbone", "detector", "segmentor")}  # fmt: skip
    ndpp = ["ND++ fast", "ND++ fast, stale", "ND++ paper"]
    whole = ["BN", "SyncBN", "GN", "IterNorm", "ND++ fast", "ND++ fast, every=4", "ND++ fast, stale", "ND++ paper"]
    assert peers["backbone"]["peak memory"] == whole
    assert peers["detector"]["batch 1"] == ["FrozenBN", "SyncBN", "GN", *ndpp]
    assert peers["segmentor"]["peak memory"] == ["BN", "SyncBN", "GN", *ndpp]
    ways = {case["name"].split(", ", 1)[1] for case in records["inference"]["cases"]}
    assert ways == {f"{dtype}, {how}" for dtype in ("bf16", "fp16") for how in ("eager", "CUDA graphs", "compiled")}
    told = records["gpu"]["told"]
    assert [case["name"] for case in told["kernels"]["cases"]] == ["ResNet-50", "Mask R-CNN"]
    assert [run["steps"] for run in told["training"]["training"]["runs"].values()] == [4, 4]
    assert {seen["outcome"] for seen in told["tests"]["tests"].values()} <= {"skipped", "passed"}
    assert told["machine"]["machine"]["packages"]["torch"] != "missing"


@pytest.mark.timeout(1700)
def test_the_files_are_few_and_name_no_place_of_the_machine(rehearsal):
    output, printed = rehearsal
    files = sorted(path.name for path in output.iterdir())
    assert len(files) == 8
    assert gpu_summary.PICTURE in files
    assert (output / gpu_summary.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert f"8 files in {output}" in printed
    for path in output.glob("*.json"):
        for place in (str(ROOT), str(output.parent), sys.prefix):
            assert place not in path.read_text()


@pytest.mark.timeout(1700)
def test_the_page_is_made_from_the_files_as_they_are(rehearsal, tmp_path):
    output, _ = rehearsal
    page = tmp_path / "performance.md"
    shutil.copy(bench_report.PAGE, page)
    bench_report.update_page(bench_suites.SUITES, page, tmp_path / "nothing")
    assert "<!-- bench:gpu -->\nnot measured\n<!-- /bench:gpu -->" in page.read_text()
    missing = bench_report.update_page(bench_suites.SUITES, page, output)
    text = page.read_text()
    section = text.split("<!-- bench:gpu -->")[1].split("<!-- /bench:gpu -->")[0]
    assert gpu_page.WARNING in section
    assert missing == list(bench_suites.SUITES)  # no section of a CPU takes figures of a rehearsal
    for name, part in PLAN.items():
        assert f"| {name} | done |" in section
        assert f"### {part.says}\n" in section or not part.suite
    assert "ResNet-50: the most frequent operations" in section
    assert "Two epochs on 16 images, ND++ fast: 4 steps" in section
    assert re.search(r"Tests: \d+ passed, 0 failed, \d+ skipped", section)
    assert "ND++ paper, graph (batch 2, 32 px, CUDA graphs): NotImplementedError" in section


def test_a_signal_ends_in_the_table_and_the_records(tmp_path):
    output = tmp_path / "output"
    words = _command(output, "--part", "machine", "training", "pooling")
    printed = []
    with subprocess.Popen(words, env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            printed.append(line)
            if "machine: done" in line:
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 1
    text = "".join(printed)
    assert "| machine | done |" in text
    assert "stopped by SIGTERM" in text
    parts = _records(output)["gpu"]["parts"]
    assert parts["pooling"]["state"] in ("not begun", "stopped")  # by how long the signal takes
    assert parts["pooling"]["why"] == "stopped by SIGTERM"
    assert parts["pooling"]["seconds"] < 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0.2"], "--minutes 0.2: it must be from 1 to 600"),
        (["--minutes", "nan"], "--minutes nan: it must be"),
        (["--data", "nothing here"], "--data nothing here: there is no such folder or file"),
    ],
)
def test_errors_end_in_a_message(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        gpu_report.main([*_command(tmp_path / "output")[2:], *words])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_without_a_gpu_it_says_what_to_type(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit) as error:
        gpu_report.main(["--output", str(tmp_path)])
    assert error.value.code == 2
    assert "torch sees no GPU here. --rehearse" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_report_is_not_written_over(tmp_path, capsys):
    (tmp_path / "gpu_cuda.json").write_text("{}")
    with pytest.raises(SystemExit):
        gpu_report.main(["--rehearse", "--output", str(tmp_path)])
    assert "holds a report already: name another folder" in capsys.readouterr().err


def test_a_kit_that_cannot_be_installed_is_told_and_what_there_is_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    kit = tmp_path / "kit"
    kit.mkdir()
    (kit / "broken-1.0-py3-none-any.whl").write_bytes(b"no archive")
    notes, environment = gpu_report.prepare(kit, tmp_path, tmp_path / "log")
    assert notes[0].startswith("kit: 1 wheels, 0.0 MiB, not installed (CalledProcessError): ERROR: ")
    assert str(ROOT) in environment["PYTHONPATH"].split(os.pathsep)


def test_parts_whose_packages_are_missing_are_left_out_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(PLAN, "detector", gpu_report.PLAN["detector"].__class__("", 1, True, ("no_such_framework",)))
    args = gpu_report.parser().parse_args([])
    parts = {part.name: part for part in gpu_report.parts_of(args, tmp_path)}
    assert parts["detector"].left_out == "no_such_framework not installed"
    assert parts["training"].left_out == gpu_report.NOT_ASKED
    assert gpu_report.fine(State("left out", why=gpu_report.NOT_ASKED))
    assert not gpu_report.fine(State("left out", why="no_such_framework not installed"))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"FileNotFoundError: {ROOT / 'a' / 'b.py'} is gone", "FileNotFoundError: b.py is gone"),
        ("at /srv/env/lib/", "at folder"),
        ("python tools/gpu_report.py --minutes 9", "python tools/gpu_report.py --minutes 9"),
        ("see https://host.example/a/b", "see https://host.example/a/b"),
        ("tests/layers/test_gpu.py::test_x[a/b/c]", "tests/layers/test_gpu.py::test_x[a/b/c]"),
        ({"/a/b/c": ["/a/b/d", 1.5, None]}, {"c": ["d", 1.5, None]}),
    ],
)
def test_records_hold_no_folders(text, kept):
    assert gpu_summary.plain(text) == kept


def test_records_of_a_gpu_make_the_section_and_only_it(tmp_path):
    page, records = tmp_path / "performance.md", tmp_path / "results" / "bench"
    records.mkdir(parents=True)
    shutil.copy(bench_report.PAGE, page)
    states = {"backbone": State("done in part", 12.0, 90.0, "batch 64, 224 px, CUDA graphs: it hung")}
    report = gpu_summary.Report(records, "cuda", "python tools/gpu_report.py", states, {"backbone": "Training step"})
    machine = {"hardware": "a GPU", "torch": "2.11", "commit": "abc", "load": [0.5], "python": "3.12", "packages": {}}
    peers = {label: {"median": 0.5, "ratio": 1.25, "ratio_quartiles": [1, 1.5]} for label in ("BN", "ND++ fast")}
    case = {"name": "batch 64, 224 px", "unit": "s", "rounds": 9, "peers": peers, "skipped": {"GN": "no memory"}}
    lost = {
        "name": "batch 64, 224 px, CUDA graphs",
        "unit": "s",
        "rounds": 0,
        "peers": {},
        "skipped": {},
        "failed": "it hung",
    }
    record = {"suite": "backbone", "says": "Training step", "command": "python tools/gpu_report.py", "machine": machine}
    part = Part("backbone", "", lambda *_: [], 1)
    first = report.take(part, {"record": {**record, "cases": [case], "load_after": [0.5]}})
    assert first == ["    batch 64, 224 px: BN 0.5 s; over it: ND++ fast 1.250", "      GN: no memory"]
    second = report.take(part, {"record": {**record, "cases": [case, lost], "load_after": [0.5]}})
    assert second == ["    batch 64, 224 px, CUDA graphs: it hung"]
    failed = {"outcome": "failed", "seconds": 1.0, "why": "wrong", "alone": "passed"}
    report.take(Part("tests", "", lambda *_: [], 1), {"record": {"tests": {"test_a": failed}}})
    assert {path.name for path in records.iterdir()} == {"gpu_cuda.json", "backbone_cuda_amp_channels_last.json"}
    assert (
        "| backbone | batch 64, 224 px | BN 0.5 s | ND++ fast 1.250; not measured: GN (no memory) |" in report.tables()
    )
    assert "failed: test_a (by itself it passed): wrong" in report.tables()

    missing = bench_report.update_page(bench_suites.SUITES, page, records)
    text = page.read_text()
    section = text.split("<!-- bench:gpu -->")[1].split("<!-- /bench:gpu -->")[0]
    assert missing == list(bench_suites.SUITES)
    assert "| ND++ fast | 1.250 (1.000-1.500) |" in section
    assert text.count("1.250 (1.000-1.500)") == 1
    assert gpu_page.WARNING not in section
    for line in ("- GN (batch 64, 224 px): no memory", "- batch 64, 224 px, CUDA graphs: it hung", "- `test_a`: wrong"):
        assert line in section
    assert said({**record, "cases": [case, lost], "load_after": [0.5]}) in section


def test_a_part_goes_on_where_the_process_before_it_ended(tmp_path, monkeypatch):
    """As on a GPU that answers no more: the case is measured without the peer at which it happened."""
    from bench import measure as bench_measure
    from bench.case import Case, Settings
    from bench.gpu import cases as gpu_cases
    from bench.gpu.journal import Journal

    def lost():
        raise RuntimeError("an illegal memory access was encountered")

    def no_answer(settings):
        raise bench_measure.DeviceLostError("it is gone")

    both = Case("both", {"BN": lambda: lambda: None, "bad": lost, "good": lambda: lambda: None})
    fails = Case("fails", {"bad": lost})
    monkeypatch.setattr(gpu_cases, "backbone_cases", lambda settings: [fails, both])
    settings = Settings(rounds=1, warmup=0, rehearse=True)
    with monkeypatch.context() as patch:
        patch.setattr(bench_measure, "_make_room", no_answer)
        with pytest.raises(bench_measure.DeviceLostError):
            gpu_worker.measure_suite("backbone", Journal(tmp_path / "part.json"), settings, time.monotonic() + 60)
    journal = Journal(tmp_path / "part.json", "exit code 3")
    assert journal.culprits("fails") == {"bad": "exit code 3"}
    gpu_worker.measure_suite("backbone", journal, settings, time.monotonic() + 60)
    first, second = journal.record["cases"]
    assert first["failed"] == "nothing could be measured"
    assert list(second["peers"]) == ["BN", "good"]
    assert second["skipped"] == {"bad": "RuntimeError: an illegal memory access was encountered"}
