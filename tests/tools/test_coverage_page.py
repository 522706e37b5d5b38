"""The table of coverage adds up by room, and is not rounded up."""

from coverage_page import PAGE, coverage_table, filled


def report():
    counts = {"ndpp_dense/ops/a.py": (9, 10), "ndpp_dense/ops/b.py": (90, 90), "ndpp_dense/redaction.py": (999, 1000)}
    files = {name: {"summary": {"covered_lines": ran, "num_statements": all_}} for name, (ran, all_) in counts.items()}
    return {"files": files, "totals": {"covered_lines": 1098, "num_statements": 1100}}


def test_rooms_add_up_and_are_rounded_down():
    lines = coverage_table(report(), "2026-11-28").splitlines()
    assert lines[0] == "Measured on 2026-11-28."
    assert [line for line in lines if line.startswith("| ")][1:] == [
        "| `(top)` | 1,000 | 99 % |",
        "| `ops` | 100 | 99 % |",
        "| all | 1,100 | 99 % |",
    ]


def test_the_page_has_a_place_for_it():
    text = filled(PAGE.read_text(encoding="utf-8"), report(), "2026-11-28")
    assert "| all | 1,100 | 99 % |" in text
    assert filled(text, report(), "2026-11-28") == text
