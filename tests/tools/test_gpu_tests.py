"""The part of the GPU report that runs tests, on small ones of its own."""

import pytest
from bench.gpu import gpu_tests
from bench.gpu.journal import Journal

HEAD = "import os, time\nimport pytest\npytestmark = pytest.mark.gpu\n\n\n"
MARKER = "[pytest]\nmarkers =\n    gpu: needs a GPU\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the tests of some files, each given as the bodies of its tests by name; returns what became of them."""
    folder = tmp_path / "tests"
    folder.mkdir()
    (tmp_path / "pytest.ini").write_text(MARKER)
    monkeypatch.setattr(gpu_tests, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", gpu_tests.__file__.split("/bench/")[0])

    def runs(seconds=60.0, **files):
        for name, tests in files.items():
            code = "\n\n".join(f"def test_{test}():\n    {body}" for test, body in tests.items())
            (folder / f"test_{name}.py").write_text(f"{HEAD}{code}\n")
        journal = Journal(tmp_path / "tests.json")
        gpu_tests.run_tests(journal, seconds, folder)
        found = journal.record["tests"]
        return {test.split("::test_")[-1]: seen for test, seen in found.items()}

    return runs


def test_outcomes_with_their_reasons(run, tmp_path):
    (tmp_path / "tests" / "test_other.py").write_text("raise SystemError('not marked, not to be read')\n")
    found = run(one={"good": "pass", "bad": "raise ValueError('it is broken')", "left": "pytest.skip('not here')"})
    assert {test: seen["outcome"] for test, seen in found.items()} == {
        "good": "passed",
        "bad": "failed",
        "left": "skipped",
    }
    assert found["bad"]["why"] == "ValueError: it is broken"
    assert found["bad"]["alone"] == "failed"
    assert "not here" in found["left"]["why"]


def test_what_fails_for_what_another_did_passes_by_itself(run):
    found = run(one={"first": "os.environ['BROKEN'] = '1'", "second": "assert 'BROKEN' not in os.environ"})
    assert (found["second"]["outcome"], found["second"]["alone"]) == ("failed", "passed")


def test_a_test_at_which_the_process_dies_has_failed_and_the_others_run(run):
    found = run(one={"good": "pass", "dies": "os._exit(11)", "later": "pass"}, two={"other": "pass"})
    assert {test: seen["outcome"] for test, seen in found.items()} == {
        "good": "passed",
        "dies": "failed",
        "later": "passed",
        "other": "passed",
    }
    assert found["dies"]["why"] == "the process ended there, exit code 11"


def test_a_test_that_hangs_fails_by_its_own_limit(run, monkeypatch):
    monkeypatch.setattr(gpu_tests, "LEAST", 1)
    monkeypatch.setattr(gpu_tests, "AGAIN", 0)
    found = run(3.9 * 6, one={"hangs": "time.sleep(600)", "late": "pass"})
    assert found["hangs"]["outcome"] == "failed"
    assert "Timeout" in found["hangs"]["why"]
    assert found["late"]["outcome"] == "passed"


def test_a_test_that_cannot_be_interrupted_has_failed_when_the_time_is_up(run):
    found = run(10.0, one={"hangs": "__import__('signal').pthread_sigmask(0, {14}); time.sleep(600)", "late": "pass"})
    assert (found["hangs"]["outcome"], found["hangs"]["why"]) == ("failed", "the time was up")
    assert "late" not in found


def test_a_file_that_cannot_be_read_counts_as_failed(run, tmp_path):
    (tmp_path / "tests" / "test_broken.py").write_text("pytestmark = pytest.mark.gpu\n")
    found = run(one={"good": "pass"})
    broken = next(seen for test, seen in found.items() if "broken" in test)
    assert broken["outcome"] == "failed"
    assert "NameError" in broken["why"]


def test_the_tests_that_need_a_gpu_are_found():
    names = {path.name for path in gpu_tests.marked_files(gpu_tests.ROOT / "tests")}
    assert {"test_gpu.py", "test_amp.py", "test_gpu_cases.py"} <= names
    assert "test_gpu_tests.py" not in names
