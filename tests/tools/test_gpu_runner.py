"""Parts that hang, raise, fill their time or die leave the others reporting."""

import os
import sys
import textwrap
import time
from pathlib import Path

import pytest
from bench.gpu import runner as gpu_runner
from bench.gpu.journal import Journal, read
from bench.gpu.runner import Part, Runner

TOOLS = Path(gpu_runner.__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TOOLS)}
BEGIN = """
import sys, time, os
from pathlib import Path
from bench.gpu.journal import Journal
journal = Journal(Path(sys.argv[1]), sys.argv[2])
peers = {"a": {"ratio": 1}}
def case(name): return {"name": name, "unit": "s", "rounds": 1, "peers": peers, "skipped": journal.culprits(name)}
"""
QUICK = "journal.add([case('all')])"
# A part with two cases whose second has a peer at which something happens.
STUMBLES = """
if "first" not in journal.done():
    journal.enter("first", "good")
    journal.add([case("first")])
if not journal.culprits("second"):
    journal.enter("second", "bad")
    {happens}
journal.enter("second", "other")
journal.add([case("second")])
"""


@pytest.fixture
def run(tmp_path):
    """Runs parts by name and code; returns the runner, what was said, and when each part was last looked at."""

    def runs(seconds=60.0, patience=30.0, left_out=(), weights=None, **codes):
        def part(name, code):
            words = [sys.executable, "-c", BEGIN + textwrap.dedent(code), str(tmp_path / f"{name}.json")]
            why = "not asked for" if name in left_out else ""
            weight = (weights or {}).get(name, 1)
            return Part(name, f"says {name}", lambda seconds, because: [*words, because], weight, True, why)

        said, watched = [], []
        parts = [part(name, code) for name, code in codes.items()]
        log = tmp_path / "log"
        made = Runner(
            parts, tmp_path, log, ENVIRONMENT, patience, lambda part, _: watched.append(part.name), said.append
        )
        made.said, made.watched = said, watched
        made.run(seconds)
        return made

    return runs


def _states(made):
    return {name: state.state for name, state in made.states.items()}


def _cases(made, name):
    return {case["name"]: case for case in read(made.folder / f"{name}.json")["record"]["cases"]}


def test_a_part_that_hangs_and_one_that_raises_leave_the_others_reporting(run):
    hangs = "journal.add([case('before')]); print('here it hangs'); time.sleep(600)"
    raises = "journal.add([case('before')]); raise SystemError('it is broken')"
    start = time.monotonic()
    made = run(36.0, weights={"quick": 4}, hangs=hangs, raises=raises, quick=QUICK)
    assert time.monotonic() - start < 36
    assert _states(made) == {"hangs": "out of time", "raises": "failed", "quick": "done"}
    assert made.states["raises"].why == "exit code 1: SystemError: it is broken"
    assert all(list(_cases(made, name)) == ["before"] for name in ("hangs", "raises"))
    assert list(_cases(made, "quick")) == ["all"]
    assert set(made.watched) == {"hangs", "raises", "quick"}
    assert "here it hangs" in made.log.read_text()
    assert any("everything by" in line for line in made.said)


def test_a_part_that_fills_its_time_leaves_the_others_theirs(run):
    fills = "number = 0\nwhile True:\n    number += 1\n    journal.add([case(f'case {number}')])\n    time.sleep(0.05)"
    made = run(16.0, fills=fills, quick=QUICK)
    assert _states(made) == {"fills": "out of time", "quick": "done"}
    assert len(_cases(made, "fills")) > 10
    assert 6 < made.states["fills"].seconds < 12
    assert made.states["quick"].limit > 4


def test_a_part_that_ignores_a_request_to_end_is_killed_with_what_it_started(run, tmp_path):
    stubborn = f"""
        import signal, subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
        time.sleep(600)
    """
    made = run(16.0, stubborn=stubborn, quick=QUICK)
    assert _states(made) == {"stubborn": "out of time", "quick": "done"}
    pid = int((tmp_path / "pid").read_text())
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        ("time.sleep(600)", "no sign of life for 3 s"),
        ("os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
        ("os._exit(3)", "exit code 3"),
    ],
    ids=["hangs", "crashes", "loses its device"],
)
def test_after_a_peer_that_ends_its_process_another_goes_on(run, happens, why):
    made = run(60.0, 3.0, part=STUMBLES.format(happens=happens), quick=QUICK)
    assert made.states["part"].why == "", made.log.read_text()
    assert _states(made) == {"part": "done", "quick": "done"}
    cases = _cases(made, "part")
    assert list(cases) == ["first", "second"]
    assert cases["first"]["skipped"] == {}
    assert cases["second"]["skipped"]["bad"].startswith(why)
    assert any("bad of second" in line and "going on without it" in line for line in made.said)


def test_a_case_that_ends_its_process_has_failed_and_the_next_goes_on(run):
    code = """
        if not journal.done():
            journal.enter("first")
            os._exit(1)
        journal.add([case("second")])
    """
    made = run(part=code)
    assert _states(made) == {"part": "done in part"}
    assert made.states["part"].why.startswith("first: exit code 1")
    assert list(_cases(made, "part")) == ["first", "second"]


def test_a_part_that_dies_again_and_again_is_given_up(run):
    code = "journal.enter('case', f'peer {len(journal.culprits(\"case\"))}')\nos._exit(1)"
    made = run(part=code, quick=QUICK)
    assert _states(made) == {"part": "failed", "quick": "done"}
    assert sum("going on without it" in line for line in made.said) == gpu_runner.ATTEMPTS


def test_what_is_left_out_and_what_no_time_is_left_for_is_named(run):
    made = run(3.0, hangs="time.sleep(600)", asked=QUICK, left_out=("asked",), late=QUICK, weights={"late": 0.1})
    assert _states(made) == {"hangs": "out of time", "asked": "left out", "late": "not begun"}
    assert made.states["asked"].why == "not asked for"
    assert made.states["late"].why == "the time was up"


def test_a_request_to_stop_ends_the_part_and_begins_no_other(tmp_path):
    words = [
        sys.executable,
        "-c",
        BEGIN + "journal.add([case('before')]); time.sleep(600)",
        str(tmp_path / "one.json"),
        "",
    ]
    parts = [Part(name, "", lambda *_: words, 1) for name in ("one", "two")]
    made = Runner(parts, tmp_path, tmp_path / "log", ENVIRONMENT)
    made.watch = lambda part, journal: made.stop("stopped by SIGTERM") if journal["record"] else None
    made.run(60)
    assert _states(made) == {"one": "stopped", "two": "not begun"}
    assert made.states["two"].why == "stopped by SIGTERM"


def test_a_journal_is_gone_on_with(tmp_path):
    path = tmp_path / "part.json"
    first = Journal(path)
    first.record["suite"] = "backbone"
    first.add([{"name": "one"}])
    first.enter("two", "GN")
    second = Journal(path, "it hung")
    assert second.done() == {"one"}
    assert second.record["suite"] == "backbone"
    assert second.culprits("two") == {"GN": "it hung"}
    assert second.culprits("one") == {}
    second.enter("two")  # its rounds
    third = Journal(path, "it hung again")
    assert third.done() == {"one", "two"}
    assert third.record["cases"][1]["failed"] == "it hung again"
    assert list(tmp_path.iterdir()) == [path]
