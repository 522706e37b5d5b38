"""Labels as files hold them."""

import numpy as np
import pytest
from PIL import Image

from ndpp_dense.images.labels import check_palettes

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def write(path, *colours, mode="P"):
    image = Image.fromarray(np.zeros((4, 4), np.uint8))
    if mode == "P":
        image.putpalette([value for colour in colours for value in colour])
    image.save(path)
    return str(path)


def test_one_meaning_in_all_files(tmp_path):
    files = [write(tmp_path / f"{number}.png", RED, GREEN, BLUE) for number in range(3)]
    files += [write(tmp_path / "fewer.png", RED, GREEN), write(tmp_path / "grey.png", mode="L")]
    files += [write(tmp_path / "filled.png", RED, GREEN, RED, RED), str(tmp_path / "lost.png")]
    check_palettes(files)


@pytest.mark.parametrize("second", [(GREEN, RED), (BLUE, RED), ((1, 2, 3), GREEN, RED)])
def test_colours_with_other_numbers_are_refused(tmp_path, second):
    files = [write(tmp_path / "a.png", RED, GREEN, BLUE), write(tmp_path / "b.png", *second)]
    with pytest.raises(ValueError, match=r"a.png and .*b.png have palettes of their own: the colour \(.*\) is number"):
        check_palettes(files)
