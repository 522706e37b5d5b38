"""One picture in every kind of file comes out alike; what is damaged or says not what is white is named."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from ndpp_dense.images import depth, read_image, read_labels

GREY = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))
COLOUR = np.dstack([GREY, GREY[:, ::-1], 255 - GREY])


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv(depth.RANGE_VARIABLE, raising=False)
    monkeypatch.setattr(depth, "_said", set())


def pixels(path):
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


GREY_FILES = {
    "8 bits.png": GREY,
    "16 bits by 257.png": GREY.astype(np.uint16) * 257,
    "16 bits by 256.png": GREY.astype(np.uint16) * 256,
    "16 bits.tif": GREY.astype(np.uint16) * 257,
    "16 bits, big end first.tif": (GREY.astype(np.uint16) * 257).astype(">u2"),
    "16 bits.pgm": GREY.astype(np.uint16) * 257,
    "with alpha.png": np.dstack([GREY, np.full_like(GREY, 128)]),
    "one bit.png": GREY,
}


@pytest.mark.parametrize("name", GREY_FILES)
def test_grey_of_any_depth_is_the_same_picture(tmp_path, name):
    array, expected = GREY_FILES[name], GREY
    if name.startswith("one bit"):
        array, expected = GREY > 100, np.where(GREY > 100, 255, 0)
    if name.endswith("pgm"):
        header = f"P5 {array.shape[1]} {array.shape[0]} 65535\n".encode()
        (tmp_path / name).write_bytes(header + array.astype(">u2").tobytes())
    else:
        save(tmp_path / name, array)
    assert np.array_equal(pixels(tmp_path / name), np.dstack([expected] * 3))


def test_white_is_zero_is_turned_round(tmp_path):
    path = save(tmp_path / "x.tif", GREY.astype(np.uint16) * 257, tiffinfo={262: 0})
    assert np.array_equal(pixels(path)[..., 0], 255 - GREY)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr"])
def test_colour_modes(tmp_path, mode):
    image = Image.fromarray(COLOUR).convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr") else "x.png")
    image.save(path)
    assert np.abs(pixels(path).astype(int) - np.asarray(image.convert("RGB"))).max() <= 1


def test_palette_with_transparent_entries(tmp_path):
    image = Image.fromarray(COLOUR).quantize(16)
    image.save(tmp_path / "x.png", transparency=bytes([0, 128] + [255] * 14))
    assert np.array_equal(pixels(tmp_path / "x.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_orientation_is_applied(tmp_path, suffix):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.fromarray(COLOUR).save(tmp_path / f"x.{suffix}", exif=exif)
    assert pixels(tmp_path / f"x.{suffix}").shape == (COLOUR.shape[1], COLOUR.shape[0], 3)


def test_orientation_of_sixteen_bits(tmp_path):
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "x.png")[..., 0], GREY[::-1, ::-1])


UNKNOWN_RANGE = {
    "float32": GREY.astype(np.float32) / 255,
    "int32": GREY.astype(np.int32) * 100,
}


@pytest.mark.parametrize("kind", UNKNOWN_RANGE)
def test_an_unknown_range_is_refused_and_a_stated_one_used(tmp_path, monkeypatch, kind):
    array = UNKNOWN_RANGE[kind]
    path = save(tmp_path / "scan.tif", array)
    with pytest.raises(ValueError, match=rf"scan\.tif: its pixels are .*mode [IF].*{depth.RANGE_VARIABLE}=0:4095"):
        read_image(path)
    monkeypatch.setenv(depth.RANGE_VARIABLE, f"0:{array.max() * 255 / 252}")
    assert np.abs(pixels(path)[..., 0].astype(int) - GREY).max() <= 1


def test_twelve_bits_in_sixteen_are_dark_by_depth_and_right_by_range(tmp_path, monkeypatch, caplog):
    path = save(tmp_path / "x.png", GREY.astype(np.uint16) * 16)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(pixels(path)[..., 0], GREY // 16)
        read_image(path)
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"{path} and other grey images of more than 8 bits",
        f"{path} is dark",
    ]
    monkeypatch.setenv(depth.RANGE_VARIABLE, "0:4095")
    assert np.array_equal(pixels(path)[..., 0], GREY)
    monkeypatch.setenv(depth.RANGE_VARIABLE, "0:1023")  # what lies beyond is white
    assert np.array_equal(pixels(path)[..., 0], np.minimum(GREY.astype(int) * 4, 255))
    monkeypatch.setenv(depth.RANGE_VARIABLE, "-4096:4095")
    assert np.array_equal(pixels(path)[..., 0], 128 + GREY // 2)


@pytest.mark.parametrize("text", ["4095", "5:5", "9:1", "a:b", "0:inf", "0:1:2"])
def test_a_range_that_is_none_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.setenv(depth.RANGE_VARIABLE, text)
    with pytest.raises(ValueError, match="LOW:HIGH"):
        read_image(save(tmp_path / "x.png", GREY.astype(np.uint16)))


def test_values_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(depth.RANGE_VARIABLE, "0:1")
    array = np.full((8, 8), np.nan, np.float32)
    with pytest.raises(ValueError, match=r"x\.tif: .*not all finite"):
        read_image(save(tmp_path / "x.tif", array))


def test_deep_colour_is_read_by_depth_and_refused_with_a_range(tmp_path, monkeypatch, caplog):
    cv2 = pytest.importorskip("cv2", reason="OpenCV writes colour of 16 bits, and is not installed")
    for name in ("x.png", "x.tif"):
        cv2.imwrite(str(tmp_path / name), COLOUR[..., ::-1].astype(np.uint16) * 257)
        monkeypatch.delenv(depth.RANGE_VARIABLE, raising=False)
        assert np.array_equal(pixels(tmp_path / name), COLOUR)
        monkeypatch.setenv(depth.RANGE_VARIABLE, "0:4095")
        with pytest.raises(ValueError, match=rf"{name}: it has 16 bits a colour"):
            read_image(tmp_path / name)
    assert "colour images of 16 bits" in caplog.text


def test_more_channels_than_colours_are_refused(tmp_path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV reads back what was written, and is not installed")
    cv2.imwritemulti(str(tmp_path / "stack.tif"), [COLOUR, COLOUR, COLOUR])
    with pytest.raises(ValueError, match=r"stack\.tif: it holds 3 pictures \(TIFF\)"):
        read_image(tmp_path / "stack.tif")
    cv2.imwrite(str(tmp_path / "float.tif"), np.dstack([GREY.astype(np.float32)] * 3))
    with pytest.raises(ValueError, match=r"float\.tif: a TIFF of bands or samples that Pillow does not read"):
        read_image(tmp_path / "float.tif")
    Image.frombytes("RGBX", COLOUR.shape[1::-1], np.dstack([COLOUR, GREY]).tobytes()).save(tmp_path / "bands.tif")
    with pytest.raises(ValueError, match=r"bands\.tif: it has 4 channels"):
        read_image(tmp_path / "bands.tif")


def test_smaller_copies_in_a_tiff_are_no_stack(tmp_path):
    small = Image.fromarray(COLOUR[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(COLOUR).save(tmp_path / "x.tif", save_all=True, append_images=[small])
    assert np.array_equal(pixels(tmp_path / "x.tif"), COLOUR)


def test_animations_are_refused(tmp_path):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 100)]
    for name in ("x.gif", "x.png", "x.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ValueError, match=rf"{name}: it holds 2 pictures"):
            read_image(tmp_path / name)


def _damaged(path, how):
    rng = np.random.default_rng(0)
    save(path, rng.integers(0, 7, (64, 64, 3), np.uint8))
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = b""
    elif how == "text":
        data = b"<html>404</html>"
    else:
        data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "how"),
    [(f"x.{suffix}", how) for how in ("truncated", "empty", "text") for suffix in ("png", "jpg", "tif", "bmp", "webp")]
    + [("x.png", "one byte")],
)
def test_damaged_files_are_named(tmp_path, name, how):
    with pytest.raises(ValueError, match=rf"cannot read image .*{name}: .*Restore, convert or remove it"):
        read_image(_damaged(tmp_path / name, how))


def test_an_image_too_large_to_be_safe_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "huge.png", np.zeros((64, 64), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2 - 1)
    with pytest.raises(ValueError, match=r"huge\.png: it is larger than Pillow takes for safe"):
        read_image(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"cannot read image .*directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_labels_are_numbers_as_they_are(tmp_path, dtype):
    labels = np.arange(64, dtype=dtype).reshape(8, 8) * (4 if dtype == np.uint8 else 100)
    assert np.array_equal(read_labels(save(tmp_path / "x.tif", labels)), labels)


def test_labels_of_a_palette_are_its_numbers(tmp_path):
    image = Image.fromarray(GREY // 32).convert("P")
    image.putpalette([200, 0, 0] * 256)
    image.save(tmp_path / "x.png")
    assert np.array_equal(read_labels(tmp_path / "x.png"), GREY // 32)


@pytest.mark.parametrize(("bands", "mode"), [(3, "RGB"), (4, "RGBA"), (2, "LA")])
def test_labels_of_several_channels_are_refused(tmp_path, bands, mode):
    path = save(tmp_path / "x.png", np.dstack([GREY] * bands))
    with pytest.raises(ValueError, match=rf"cannot read labels .*x\.png: it has {bands} channels \(mode {mode}\)"):
        read_labels(path)
    with pytest.raises(ValueError, match="numbers that are not whole"):
        read_labels(save(tmp_path / "y.tif", GREY.astype(np.float32)))


def test_damage_behind_the_pixels_is_named(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "x.png"
    Image.fromarray(COLOUR).save(path, exif=exif)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]  # before the last chunk
    path.write_bytes(moved)
    assert pixels(path).shape[:2] == COLOUR.shape[1::-1]
    damaged = bytearray(moved)
    damaged[-14] ^= 0x40
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"cannot read image .*x\.png: "):  # else the picture would lie on its side
        read_image(path)
