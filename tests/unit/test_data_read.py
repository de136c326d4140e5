"""Reading images of every kind that people have."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from detrex_ext.data.read import UnreadableImage, image_size, read_image, rgb_of
from detrex_ext.predictor import as_rgb


def test_reading_images_rgb_upright_8_bit(tmp_path):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(pixels, k=-1))
    assert image_size(tmp_path / "turned.png") == (3, 2)
    gray = np.array([[0, 255], [100, 7]], dtype=np.uint8)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    assert np.array_equal(read_image(tmp_path / "gray.png"), np.repeat(gray[:, :, None], 3, 2))
    Image.fromarray(gray.astype(np.uint16) * 256 + 3).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png")[:, :, 1], gray)
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "alpha.png"), pixels)
    with pytest.raises(UnreadableImage, match="does not exist"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_is_cut_to_8_whatever_holds_it(tmp_path, ending):
    gray = np.array([[0, 255, 9], [100, 7, 1]], dtype=np.uint8)
    path = tmp_path / f"deep.{ending}"
    Image.fromarray(gray.astype(np.uint16) * 256 + 3).save(path)
    with Image.open(path) as image:
        for rgb in (read_image(path), rgb_of(image), as_rgb(image)):
            assert np.array_equal(rgb, np.repeat(gray[:, :, None], 3, 2))


def test_pixels_of_no_known_range_are_refused(tmp_path):
    for dtype in (np.float32, np.int32):
        Image.fromarray(np.ones((4, 5), dtype)).save(tmp_path / "a.tif")
        with pytest.raises(UnreadableImage, match="a.tif\n.*32 bit per pixel have no known range"):
            read_image(tmp_path / "a.tif")


def test_an_open_image_that_cannot_be_decoded_is_told_by_name(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:500])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(UnreadableImage, match="cut.png\n.*truncated"):
        as_rgb(image)


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_arrays_of_grey_rgb_and_rgba(channels):
    array = np.random.default_rng(0).integers(0, 256, (4, 5, *channels), dtype=np.uint8)
    rgb = as_rgb(array)
    three = array.reshape(4, 5, -1)[:, :, :3]
    assert rgb.shape == (4, 5, 3) and np.array_equal(rgb, np.broadcast_to(three, (4, 5, 3)))
    assert not np.shares_memory(rgb, array)
