"""No name that a user gives, and no error of a drawing, costs more than the picture."""

import logging
import warnings

import pytest

from ndpp_dense.reports.drawing import drawing, literal

figures = pytest.importorskip("matplotlib.figure", reason="matplotlib is not installed")
NAMES = [
    "$", "a$b$c", r"\$x\$", r"\frac{", "$\\frac{1$ $", "_hidden_", "", " ", "two\nlines", "tab\tand\0nul", "\ud800half",
    "猫と犬", "🐈", "e\u0301", "مرحبا", "x" * 500, "{", "}^_%&#~", "\u2028line",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_can_be_drawn(name, tmp_path, caplog):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patches import Patch

    figure = figures.Figure(layout="constrained")
    FigureCanvasAgg(figure)
    with drawing(tmp_path / "a.png"):
        axes = figure.subplots()
        axes.text(0.5, 0.5, literal(name))
        axes.set_title(literal(name))
        legend = axes.legend(handles=[Patch(label=literal(name)), Patch(label="b")])
        figure.savefig(tmp_path / "a.png")
        assert len(legend.get_texts()) == 2
    assert caplog.text == ""
    assert (tmp_path / "a.png").is_file()


def test_names_are_shown_as_they_are_and_cut():
    assert literal("traffic light") == "traffic light"
    assert literal("a$b") == r"a\$b"
    assert len(literal("x" * 500)) == 40


@pytest.mark.parametrize("error", [ValueError("Image size of 99999999x4\npixels"), OSError(28, "full"), KeyError()])
def test_an_error_is_one_line_and_the_run_goes_on(error, caplog):
    with caplog.at_level(logging.WARNING), drawing("run/curves.png"):
        raise error
    (record,) = caplog.records
    assert record.getMessage().startswith("run/curves.png was not drawn (")
    assert record.getMessage().endswith("; all else is complete.")
    assert "\n" not in record.getMessage()


def test_warnings_of_fonts_are_kept_back_and_an_interruption_is_not():
    with drawing("a.png"):
        warnings.warn("Glyph 128008 missing from font(s) DejaVu Sans.", stacklevel=1)
    with pytest.raises(KeyboardInterrupt), drawing("a.png"):
        raise KeyboardInterrupt
