"""Reading images of every kind, and LQ images against the published ones."""

import cv2
import numpy as np
import pytest
from PIL import Image

from contrast_arch.prepare.images import Unusable, read_header, read_rgb, to_uint8

RGB = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (21, 34, 1), dtype=np.uint8)
ON_WHITE = (RGB.astype(float) * ALPHA + 255.0 * (255 - ALPHA)) / 255


def deep(values):
    """8-bit values as 16-bit ones."""
    return values.astype(np.uint16) * 257


def save_turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(path, exif=exif)


# name -> (writer, expected pixels, largest difference allowed, part of the note)
GREY = RGB[:, :, :1]
KINDS = {
    "plain.png": (lambda p: Image.fromarray(RGB).save(p), RGB, 0, None),
    "plain.bmp": (lambda p: Image.fromarray(RGB).save(p), RGB, 0, None),
    "plain.webp": (lambda p: Image.fromarray(RGB).save(p, lossless=True), RGB, 0, None),
    "grey.png": (lambda p: Image.fromarray(GREY[:, :, 0]).save(p), GREY.repeat(3, 2), 0, "L, converted"),
    "rgba.png": (
        lambda p: Image.fromarray(np.concatenate([RGB, ALPHA], 2)).save(p),
        ON_WHITE,
        1,
        "laid on white",
    ),
    "palette.png": (
        lambda p: Image.fromarray(RGB // 128 * 128).quantize(8).save(p),
        RGB // 128 * 128,
        0,
        "P, converted",
    ),
    "cmyk.jpg": (
        lambda p: Image.new("CMYK", (34, 21), (0, 255, 255, 0)).save(p, quality=100),
        np.full((21, 34, 3), (255, 0, 0)),
        2,
        "CMYK",
    ),
    "deep.png": (lambda p: cv2.imwrite(str(p), deep(RGB[:, :, ::-1])), RGB, 0, "16 bits"),
    "deep.tif": (lambda p: cv2.imwrite(str(p), deep(RGB[:, :, ::-1])), RGB, 0, "16 bits"),
    "deep_grey.png": (lambda p: cv2.imwrite(str(p), deep(GREY)), GREY.repeat(3, 2), 0, "16 bits"),
    "deep_rgba.png": (
        lambda p: cv2.imwrite(str(p), deep(np.concatenate([RGB[:, :, ::-1], ALPHA], 2))),
        ON_WHITE,
        1,
        "16 bits",
    ),
    "turned.png": (save_turned, np.rot90(RGB, -1), 0, "EXIF orientation"),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_become_rgb(tmp_path, name):
    write, expected, tolerance, note = KINDS[name]
    path = tmp_path / name
    write(path)
    width, height, notes = read_header(path)
    pixels = read_rgb(path)
    assert pixels.dtype == np.uint8 and pixels.shape == expected.shape
    assert np.abs(pixels - expected.astype(float)).max() <= tolerance
    assert (height, width) == expected.shape[:2]
    assert (not notes) if note is None else any(note in text for text in notes)


def test_sixteen_bits_are_rounded_not_cut(tmp_path):
    """The upper byte of 0x01FF is 1, the nearest 8-bit value 2."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4, 3), 0x01FF, np.uint16))
    assert (read_rgb(tmp_path / "a.png") == 2).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.tile(RGB, (40, 40, 1))).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    assert read_header(path)[:2] == (34 * 40, 21 * 40)
    with pytest.raises(Unusable, match="damaged"):
        read_rgb(path)


def test_no_image_and_unknown_kind(tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(Unusable, match="cannot be read as an image"):
        read_header(tmp_path / "a.png")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(Unusable, match="kind 'F' are not understood"):
        read_header(tmp_path / "b.tif")


def test_values_are_rounded():
    assert to_uint8(np.array([[[-0.1, 0.5, 1.2]]])).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("name", ["turned.jpg", "turned.tif", "turned.webp"])
def test_turned_images_have_the_size_they_are_shown_with(tmp_path, name):
    save_turned(tmp_path / name)
    assert read_header(tmp_path / name)[:2] == (21, 34)
    assert read_rgb(tmp_path / name).shape == (34, 21, 3)
