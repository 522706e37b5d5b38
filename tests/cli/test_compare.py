"""``ndpp compare`` shows runs beside each other, and refuses what is no run in one line."""

import json

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from browser import PHONE, opened

from ndpp_dense.cli import main


@pytest.fixture
def run_folder(tmp_path):
    def make(name, scores=(10.0, 30.0, 20.0), command="train-det", metric="mask AP", **settings):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        facts = {
            "command": command, "state": "finished", "step": 3, "total": 3, "metric": metric,
            "results": {metric: scores[-1]} if scores else {},
            "curves": {
                "loss": {"total": [[1, 3.0], [2, 2.0], [3, None]]}, "parts": {}, "rate": {"lr": [[1, 0.1]]},
                "score": {f"{metric}50": [[1, 99.0]], metric: [*enumerate(scores, 1)]} if scores else {},
            },
            "cost": {"seconds": 7500.0, "steps": 3, "seconds_a_step": 0.25, "processes": 1, "memory": 2 << 30},
            "settings": {"SOLVER.BASE_LR": "0.01", "OUTPUT_DIR": str(folder), **settings},
        }  # fmt: skip
        (folder / "report.json").write_text(json.dumps(facts))
        return str(folder)

    return make


def test_results_cost_and_settings(run_folder, tmp_path, capsys):
    runs = [run_folder("a"), run_folder("b", (5.0,), **{"SOLVER.BASE_LR": "0.02"}), run_folder("c", ())]
    assert main(["compare", *runs, "--output", str(tmp_path / "out")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1][-12:] == ["mask", "AP", "20.0", "30.0", "2", "0.25", "s", "2", "h", "05", "min", "2.0", "GiB"][-12:]
    assert ["SOLVER.BASE_LR", "0.01", "0.02", "0.01"] in lines
    assert not any("OUTPUT_DIR" in line for line in lines)
    facts = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["best"] for row in facts["runs"]] == ["30.0", "5.0", "–"]
    assert facts["settings"] == {"SOLVER.BASE_LR": {"a": "0.01", "b": "0.02", "c": "0.01"}}
    assert (tmp_path / "out" / "compare.png").stat().st_size > 10_000


def test_runs_of_different_commands_and_of_one_name(run_folder, tmp_path, capsys):
    runs = [run_folder("one/run"), run_folder("two/run", command="train-seg", metric="mIoU", names="<i>x</i>")]
    assert main(["compare", *runs, "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "one/run" in out
    assert "two/run" in out
    assert "setting" not in out
    seen = opened(tmp_path / "out" / "compare.html", tmp_path)
    assert (seen.console, seen.asked, seen.broken, seen.wide) == ([], [], 0, [])
    assert seen.width <= PHONE
    assert "settings of different names" in seen.text


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1}', '{"curves": {}, "cost": [], "settings": 3}'])
def test_a_damaged_report_is_named(text, run_folder, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "report.json").write_text(text)
    assert main(["compare", run_folder("a"), str(tmp_path / "bad")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'bad' / 'report.json'} is damaged" in error
    assert error.count("\n") == 1


def test_no_run_a_file_and_the_same_twice(run_folder, tmp_path, capsys):
    folder = run_folder("a")
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([folder, str(tmp_path / "empty")], "has no report.json"),
        ([folder, str(tmp_path / "gone")], "is no folder"),
        ([folder, f"{folder}/../a"], "is given twice"),
    ):
        assert main(["compare", *words]) == 2
        assert message in capsys.readouterr().err
