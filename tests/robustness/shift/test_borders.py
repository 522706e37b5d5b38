"""Moved pictures against NumPy's padding, and what of them is still there."""

import numpy as np
import pytest
import torch

from ndpp_dense.robustness.shift import BORDERS, parse_steps, shift_grid, translate
from ndpp_dense.robustness.shift.borders import visible_part

MODES = {"zero": "constant", "reflect": "reflect", "mirror": "symmetric", "circular": "wrap"}


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -2), (-4, 6), (3, -5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_as_a_window_of_the_padded_picture(border, shift, dtype):
    images = torch.randint(1, 255, (2, 3, 5, 7)).to(dtype)
    moved = translate(images, shift, border)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (9, 9), (9, 9)), mode=MODES[border])
    top, left = 9 - shift[0], 9 - shift[1]
    assert moved.dtype == dtype
    assert np.array_equal(moved.numpy(), padded[:, :, top : top + 5, left : left + 7])
    top, left, bottom, right = visible_part((5, 7), shift, "mirror")
    kept = images[..., max(0, -shift[0]) : 5 - max(0, shift[0]), max(0, -shift[1]) : 7 - max(0, shift[1])]
    assert torch.equal(moved[..., top:bottom, left:right], kept)


def test_a_circular_picture_goes_round_and_comes_back():
    images = torch.rand(3, 5, 7)
    assert torch.equal(translate(images, (5, -14), "circular"), images)
    back = translate(translate(images, (2, 3), "circular"), (-2, -3), "circular")
    assert torch.equal(back, images)
    assert visible_part((5, 7), (2, 3), "circular") == (0, 0, 5, 7)


@pytest.mark.parametrize("border", ["zero", "reflect", "mirror"])
def test_a_picture_that_leaves_its_frame_is_refused(border):
    with pytest.raises(ValueError, match=r"has 7 x 5 pixels .* a shift of 0 columns and -5 rows leaves nothing"):
        translate(torch.rand(3, 5, 7), (-5, 0), border)
    with pytest.raises(ValueError, match="border = 'wrap': it must be one of 'zero', 'reflect', 'mirror', 'circular'"):
        translate(torch.rand(3, 5, 7), (1, 0), "wrap")


def test_sets_of_shifts():
    assert parse_steps("-50..50") == list(range(-50, 51))
    assert parse_steps("-10..9", 4) == [-8, -4, 0, 4, 8]
    assert parse_steps("8, -4,0") == [-4, 0, 8]
    assert shift_grid([-2, 2], "x") == [(0, 0), (0, -2), (0, 2)]
    assert shift_grid([1], "diagonal") == [(0, 0), (1, 1)]
    assert len(shift_grid()) == 201
    grid = shift_grid([-1, 0, 1], "grid")
    assert len(set(grid)) == len(grid) == 9
    assert grid[0] == (0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse_steps("5..-5"), "are none: name the smaller end first"),
        (lambda: parse_steps("a..b"), "neither a range such as -50..50 nor numbers"),
        (lambda: parse_steps("-5..5", 0), "step = 0: it must be at least 1"),
        (lambda: shift_grid([0]), "no shift but 0"),
        (lambda: shift_grid([1], "both"), "along = 'both': it must be one of 'cross', 'grid'"),
    ],
)
def test_faulty_sets_of_shifts(call, message):
    with pytest.raises(ValueError, match=message):
        call()
