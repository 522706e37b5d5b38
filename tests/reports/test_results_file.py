"""Results are written whole or not at all."""

import json
import math
import os

import numpy as np
import pytest

from ndpp_dense.reports.results_file import write_results

BOXES = {"AP": 40.126, "AP50": 70.0, "APs": math.nan, "AP-0": 30.0, "AP-cat": math.nan}
MASKS = {"AP": np.float64(38.0), "AP50": 69.5, "APs": 1.0, "AP-0": 29.0, "AP-cat": 20.04}


def test_json_holds_every_number_and_null_for_nan(tmp_path):
    path = tmp_path / "new" / "results.json"
    write_results({"bbox": BOXES, "segm": MASKS}, path)
    loaded = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert loaded["bbox"] == {**BOXES, "APs": None, "AP-cat": None}
    assert loaded["segm"] == MASKS


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    write_results({"bbox": BOXES}, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="could not convert"):
        write_results({"bbox": {"AP": "much"}}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_file_gets_the_usual_rights(tmp_path):
    mask = os.umask(0)
    os.umask(mask)
    write_results({"bbox": BOXES}, tmp_path / "results.json")
    assert (tmp_path / "results.json").stat().st_mode & 0o777 == 0o666 & ~mask
