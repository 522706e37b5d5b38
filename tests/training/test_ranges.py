"""Ranges say what they hold, and hold what they say."""

import math

import pytest

from ndpp_dense.training.ranges import Range, range_faults

COUNT, SHARE = Range(1, whole=True), Range(0, 1, above=True, below=True)
KEPT = Range(1, whole=True, also=((-1, "for all"),))
NORM = Range(0, above=True, also=((math.inf, "for the largest"),))


@pytest.mark.parametrize(
    ("wanted", "right", "wrong", "words"),
    [
        (Range(), [0, -1.5, 1e30], [math.nan, math.inf, "1", None, True, [1]], "a finite number"),
        (COUNT, [1, 2**31], [0, -1, 10**20, 1.0, True, "2", math.nan], "a whole number, at least 1"),
        (SHARE, [0.5, 1e-9], [0, 1, -0.1, math.nan], "a finite number, above 0 and below 1"),
        (Range(0, 1), [0, 1, 0.3], [-1e-9, 1.1], "a finite number, from 0 to 1"),
        (KEPT, [-1, 1, 2], [0, -2], "a whole number, at least 1, or -1 for all"),
        (NORM, [0.5, math.inf], [0, -math.inf, math.nan], "a finite number, above 0, or inf for the largest"),
    ],
)
def test_what_a_range_holds(wanted, right, wrong, words):
    assert [value for value in right if not wanted.holds(value)] == []
    assert [value for value in wrong if wanted.holds(value)] == []
    assert str(wanted) == words


@pytest.mark.parametrize("value", [[], [1, 0], [[1], [0]], [[1], []], (2, "3"), [None]])
def test_lists_of_any_depth(value):
    assert list(range_faults("KEY", value, COUNT)) == [
        f"KEY is {value!r}, it must be a list, each entry a whole number, at least 1"
    ]


def test_what_is_right_or_not_set_is_no_fault():
    for value in (None, 3, [1, 2], ((4,), (5, 6))):
        assert list(range_faults("KEY", value, COUNT)) == []
    assert list(range_faults("KEY", [], Range(empty=True))) == []


@pytest.mark.parametrize("value", [10**30, -(10**12), [1, [2**31 + 1]]])
def test_what_counters_cannot_hold_is_refused_with_the_bound(value):
    (fault,) = range_faults("KEY", value, Range(whole=True))
    assert fault.endswith("a whole number, and at most 2147483648")
    (fault,) = range_faults("KEY", 10**4000, COUNT)
    assert len(fault) < 400
