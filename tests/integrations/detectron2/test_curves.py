from __future__ import annotations

import json
import math
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from matplotlib.figure import Figure
from PIL import Image

from ndpp_dense.integrations.detectron2.curves import read_metrics, save_curves


def _line(iteration: int, **more: float) -> str:
    losses = {"total_loss": 3.0 / (1 + iteration), "loss_cls": 1.0 / (1 + iteration), "loss_mask": 0.7}
    return json.dumps({"iteration": iteration, "lr": 0.01, **losses, **more})


def _write(folder: Path, *lines: str) -> Path:
    path = folder / "metrics.json"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _lines_drawn(monkeypatch: pytest.MonkeyPatch, metrics: Path) -> dict[str, dict[str, np.ndarray]]:
    """Title of each panel to its labelled lines, taken from the figure as it is saved."""
    drawn: dict[str, dict[str, np.ndarray]] = {}
    save = Figure.savefig

    def spy(figure, *args, **kwargs):
        for axes in figure.axes:
            lines = {str(line.get_label()): line.get_xydata() for line in axes.get_lines()}
            drawn[axes.get_title(loc="left")] = {k: v for k, v in lines.items() if not k.startswith("_")}
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    save_curves(metrics, metrics.parent / "curves.png")
    return drawn


def test_truncated_last_line_is_passed_over(tmp_path, caplog):
    path = _write(tmp_path, _line(19), _line(39), _line(59)[:30])
    assert list(read_metrics(path)) == [19, 39]
    assert "line 3" in caplog.text


def test_resume_replaces_what_the_abandoned_run_wrote(tmp_path):
    lines = [_line(i, lr=1.0) for i in (19, 39, 59, 79)] + [_line(i, lr=2.0) for i in (39, 59)]
    records = read_metrics(_write(tmp_path, *lines))
    assert {i: values["lr"] for i, values in records.items()} == {19: 1.0, 39: 2.0, 59: 2.0}


def test_two_lines_of_one_iteration_are_joined(tmp_path):
    evaluation = json.dumps({"iteration": 19, "bbox/AP": 12.5, "bbox/APl": math.nan})
    records = read_metrics(_write(tmp_path, _line(19), evaluation))
    assert records[19]["bbox/AP"] == 12.5
    assert records[19]["lr"] == 0.01
    assert "bbox/APl" not in records[19]


def test_all_that_was_recorded_is_drawn(tmp_path, monkeypatch):
    lines = [_line(i, **({"segm/AP": i / 4, "bbox/AP50": i / 2} if i % 40 == 39 else {})) for i in range(19, 200, 20)]
    drawn = _lines_drawn(monkeypatch, _write(tmp_path, *lines))
    assert set(drawn["Loss components"]) == {"box class", "mask"}
    np.testing.assert_allclose(drawn["Loss components"]["mask"][:, 1], 0.7)
    assert set(drawn["Average precision on the validation set"]) == {"mask AP 49.8", "box AP50 99.5"}
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (1650, 1050)
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_smoothed_line_stays_within_the_raw_one_and_keeps_its_ends(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    raw = rng.normal(2.0, 0.3, 200)
    lines = [_line(i, total_loss=value) for i, value in enumerate(raw)]
    smooth = _lines_drawn(monkeypatch, _write(tmp_path, *lines))["Total loss"]["total"][:, 1]
    assert smooth[0] == pytest.approx(raw[0])
    assert smooth[-1] == pytest.approx(raw[-1])
    assert smooth[100] == pytest.approx(raw[90:111].mean())


def test_several_test_sets_are_told_apart(tmp_path, monkeypatch):
    path = _write(tmp_path, _line(19, **{"a_val/segm/AP": 1.0, "b_val/segm/AP": 2.0}))
    drawn = _lines_drawn(monkeypatch, path)
    assert set(drawn["Average precision on the validation set"]) == {"a_val/ mask AP 1.0", "b_val/ mask AP 2.0"}


def test_one_line_without_losses_still_makes_a_picture(tmp_path):
    save_curves(_write(tmp_path, json.dumps({"iteration": 0})), tmp_path / "new" / "curves.png")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["curves.png"]


def test_threads_can_draw_at_once(tmp_path):
    path = _write(tmp_path, *(_line(i) for i in range(20)))
    threads = [Thread(target=save_curves, args=(path, tmp_path / f"{i}.png")) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


def test_nothing_to_draw(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        save_curves(tmp_path / "metrics.json", tmp_path / "curves.png")
    with pytest.raises(ValueError, match="no line with training metrics"):
        save_curves(_write(tmp_path, "{", "3", '{"a": 1}'), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
