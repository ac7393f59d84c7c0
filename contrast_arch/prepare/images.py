"""One source image: what it is, its pixels as 8-bit RGB, its bicubic LQ."""

import contextlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from contrast_arch.errors import one_line
from contrast_arch.images import FORMATS, Unreadable, content, orientation, raw_mode, upright_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
# Errors of Pillow for damaged files, by format.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Unreadable)


class Unusable(Exception):
    """An image that cannot be used; the message says why."""


@contextlib.contextmanager
def _opened(path, fault):
    """The image of a file that is not decoded yet, and whether it has 16 bits and is turned by EXIF."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image, ";16" in raw_mode(image), orientation(image) != 1
    except UNREADABLE as error:
        raise Unusable(f"{fault}: {one_line(error)}") from error


def read_header(path: Path) -> tuple[int, int, list[str]]:
    """Width and height of an image as it is shown, and the conversions that its pixels need; it is not decoded.

    Unusable where it is none, or of a kind without obvious 8-bit RGB.
    """
    with _opened(path, "cannot be read as an image") as (image, deep, turned):
        mode = "L" if image.mode.startswith("I;16") else image.mode
        if mode in ("F", "I"):  # 32 bits, of which it is not known what is white
            raise Unusable(f"pixels of kind {mode!r} are not understood; store it as 8-bit or 16-bit grey or RGB")
        if deep and turned:
            raise Unusable("its EXIF orientation turns it, which is done for 8 bits only; store it upright")
        notes = {
            "16 bits, scaled to 8": deep,
            f"{mode}, converted to RGB": mode != "RGB",
            "transparent, laid on white": image.has_transparency_data,
            # Frames are not counted: a small file may have millions.
            "several frames, the first was taken": getattr(image, "is_animated", False),
            "turned as its EXIF orientation says": turned,
        }
        size = upright_size(image) if turned else image.size
        return *size, [note for note, applies in notes.items() if applies]


def read_rgb(path: Path) -> np.ndarray:
    """The pixels of an image, (H, W, 3), uint8, RGB; Unusable where the file is damaged."""
    with _opened(path, "damaged") as (image, deep, turned):
        image.load()
        if deep:
            return _read_deep(content(path))
        image = ImageOps.exif_transpose(image) if turned else image
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB"))


def _read_deep(content):
    """16-bit pixels, which Pillow cuts to their upper half."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16:
        raise Unusable("16-bit pixels of a kind that OpenCV does not read; store it as PNG")
    image = np.atleast_3d(image) / 65535
    if image.shape[2] == 4:
        image = image[:, :, 3:] * image[:, :, :3] + 1 - image[:, :, 3:]
    return np.broadcast_to(to_uint8(image)[:, :, ::-1], (*image.shape[:2], 3))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """(H, W, C) in [0, 1] -> the same in 0 ... 255, rounded."""
    return (image * 255.0).round().clip(0, 255).astype(np.uint8)


def bicubic(image: np.ndarray, factor: float) -> np.ndarray:
    """Resize an image (H, W, C) in uint8 as MATLAB's ``imresize`` does, with antialiasing, rounded to 8 bits."""
    from basicsr.utils.matlab_functions import imresize

    return to_uint8(imresize(image / 255.0, factor))
