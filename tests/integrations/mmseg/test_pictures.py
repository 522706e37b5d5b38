"""The pictures of the report must show what was predicted."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmengine", reason="mmengine is not installed")

from ndpp_dense.integrations.mmseg.pictures import Prediction, save_predictions  # noqa: E402
from ndpp_dense.integrations.mmseg.report import curve_panels  # noqa: E402
from ndpp_dense.reports.plots import save_panels  # noqa: E402

pytestmark = pytest.mark.mmseg
PALETTE = [[255, 0, 0], [0, 0, 255]]


def prediction(predicted):
    image = np.full((20, 40, 3), 255, np.uint8)
    truth = np.zeros((20, 40), np.uint8)
    truth[:, 20:] = 1
    truth[0] = 255
    return Prediction(image, truth, np.full((20, 40), predicted, np.uint8))


def colours(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    return {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}


def test_sheet_shows_truth_and_prediction(tmp_path):
    red, blue = (255, 102, 102), (102, 102, 255)  # a class colour over white
    save_predictions([prediction(0)], ["a", "b"], PALETTE, tmp_path / "new" / "sheet.png")
    assert {red, blue} <= colours(tmp_path / "new" / "sheet.png")
    with pytest.raises(ValueError, match="got no prediction"):
        save_predictions([], ["a", "b"], PALETTE, tmp_path / "sheet.png")


def test_curves_are_drawn_with_and_without_figures(tmp_path):
    steps = np.arange(1, 9)
    series = {"loss": (steps, 1 / steps), "decode.loss_ce": (steps, 1 / steps), "lr": (steps, steps / 10)}
    save_panels(curve_panels(series, [[4, 30.0], [8, 55.5]]), tmp_path / "full.png")
    save_panels(curve_panels({}, []), tmp_path / "empty.png")
    for name in ("full.png", "empty.png"):
        with Image.open(tmp_path / name) as image:
            assert image.size == (1650, 1050)
    assert len(colours(tmp_path / "full.png")) > len(colours(tmp_path / "empty.png"))


@pytest.mark.parametrize("shape", [(2, 900), (900, 2), (1, 1)])
def test_any_shape_and_thousands_of_classes_with_any_names_are_drawn(tmp_path, shape):
    numbers = np.arange(shape[0] * shape[1]).reshape(shape) % 3000
    sheet = [Prediction(np.zeros((*shape, 3), np.uint8), numbers, numbers)]
    names = [f"$class_{number}" for number in range(3000)]
    save_predictions(sheet, names, [[number % 256, 0, 0] for number in range(3000)], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert max(image.size) < 6000
