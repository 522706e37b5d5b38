from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("tabulate", reason="tabulate is not installed")

from ndpp_dense.integrations.detectron2.results import format_results

BOXES = {"AP": 40.126, "AP50": 70.0, "APs": math.nan, "AP-0": 30.0, "AP-cat": math.nan}
MASKS = {"AP": np.float64(38.0), "AP50": 69.5, "APs": 1.0, "AP-0": 29.0, "AP-cat": 20.04}


def test_table():
    assert format_results({"bbox": BOXES, "segm": MASKS}).splitlines() == [
        "         AP    AP50    APs",
        "-----  ----  ------  -----",
        "boxes  40.1    70.0      -",
        "masks  38.0    69.5    1.0",
        "",
        "AP by category      boxes    masks",
        "----------------  -------  -------",
        "0                    30.0     29.0",
        "cat                     -     20.0",
        '"-": the data set holds no such objects.',
    ]


def test_one_table_for_each_data_set():
    text = format_results({"a_val": {"bbox": {"AP": 1.0}}, "b_val": {"bbox": {"AP": 2.0}, "segm": {"AP": 3.0}}})
    assert text.index("a_val") < text.index("1.0") < text.index("b_val") < text.index("2.0") < text.index("3.0")
    assert '"-"' not in text


def test_nothing_evaluated():
    assert format_results({}) == "No results: nothing was evaluated."
    assert "nothing was evaluated" in format_results({"a_val": {}, "b_val": {}})
