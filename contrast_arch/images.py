"""Images as BasicSR's datasets read them: OpenCV decodes, not Pillow, and OpenCV applies EXIF orientations."""

import contextlib
import stat
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from contrast_arch.errors import InputError, one_line

# Formats that Pillow may open: EPS would run Ghostscript, and others are rarely tried.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF")
# A file of 16 bits and four channels has 8, beside its header and metadata.
MOST_BYTES_PER_PIXEL = 10
MAX_PIXELS = Image.MAX_IMAGE_PIXELS


class Unreadable(InputError):
    """An image that cannot be read; the message says why."""


def content(path: Path | None, max_pixels: int = MAX_PIXELS) -> bytes:
    """Read the file of an image into memory, or stdin for None; of a pipe or device, which may have no end, or more
    bytes than any image of ``max_pixels``, :class:`Unreadable`."""
    most = MOST_BYTES_PER_PIXEL * max(max_pixels, MAX_PIXELS)
    if path is None:
        found = sys.stdin.buffer.read(most + 1)
    elif not stat.S_ISREG(path.stat().st_mode):
        raise Unreadable("a folder, pipe or device; expected a file")
    else:
        found = path.read_bytes() if path.stat().st_size <= most else None
    if found is None or len(found) > most:
        raise Unreadable(f"more than {most:,} bytes, which no image of {max_pixels:,} pixels has")
    return found


def read(content: bytes) -> np.ndarray:
    """Decode an image file as BasicSR's datasets do: (H, W, 3), BGR, uint8.

    Raises:
        Unreadable: the file is damaged, of more than twice ``MAX_PIXELS``, or OpenCV does not decode its pixels.
    """
    import cv2
    from basicsr.utils import imfrombytes

    if not content:
        raise Unreadable("it is empty, or not there")
    try:
        Image.open(BytesIO(content), formats=FORMATS).close()
    except Image.DecompressionBombError as error:
        raise Unreadable(f"{one_line(error)}; cut it into smaller ones") from error
    except Exception:  # what Pillow does not know, OpenCV may
        pass
    pixels = None
    with contextlib.suppress(cv2.error):  # beyond OpenCV's limit of pixels
        pixels = imfrombytes(content)
    # OpenCV gives grey PFM files without a channel axis, and BasicSR's datasets fail on them.
    if pixels is None or pixels.ndim != 3:
        raise Unreadable(damage(content) or "OpenCV, which BasicSR reads with, cannot decode it; store it as PNG")
    return pixels


def damage(content: bytes) -> str | None:
    """Describe the damage that Pillow finds in an image; None without one, or where Pillow does not know the format."""
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except Exception:  # Pillow's plugins raise many kinds, also for what OpenCV reads
        return None
    try:
        image.load()
    except Exception as error:  # and so do its decoders for a broken file
        return one_line(error)
    return None


def raw_mode(image: Image.Image) -> str:
    """Name the layout of the pixels in a file that is not decoded yet: ``RGB;16B``, whose mode in Pillow is RGB."""
    arguments = image.tile[0].args if image.tile else image.mode
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def converted(image: Image.Image) -> Iterator[str]:
    """Name what is lost when OpenCV decodes an image as RGB of 8 bits: alpha, palette, 16 bits."""
    if image.has_transparency_data:
        yield "alpha"
    if image.mode in ("P", "PA"):
        yield "palette"
    if ";16" in raw_mode(image):
        yield "16 bits"


def orientation(image: Image.Image) -> int:
    """EXIF orientation by which OpenCV turns an image, 1 to 8."""
    # Not by getexif, which also takes orientations from where OpenCV does not look, and decodes whole PNG files.
    tags = Image.Exif()
    tags.load(image.info.get("exif", b""))
    found = (image.tag_v2 if image.format == "TIFF" else tags).get(ExifTags.Base.Orientation)
    return found if found in range(2, 9) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after :func:`orientation` is applied."""
    # Pillow has turned the size of TIFF files already.
    return image.size[::-1] if orientation(image) >= 5 and image.format != "TIFF" else image.size


def is_utf8(name: str) -> bool:
    """True if a file name is UTF-8; OpenCV's ``imread`` and ``imwrite`` end the process at any other."""
    return printable(name) == name


def printable(name: str) -> str:
    r"""Escape the bytes of a file name that are not UTF-8: ``caf\udce9.png``."""
    return name.encode(errors="backslashreplace").decode()


def named(dataset, index: int, error: Exception) -> str:
    """Say why a dataset, BasicSR's or like it, raised an error for an image; with its file where that is known."""
    entry, client, unreadable = {}, getattr(dataset, "file_client", None), []
    with contextlib.suppress(AttributeError, TypeError, IndexError, KeyError):
        entry = dataset.paths[index]
    if not isinstance(entry, dict):
        # BasicSR's datasets of GT alone have a folder of it.
        entry = {"gt_path" if hasattr(dataset, "gt_folder") else "lq_path": entry}
    files = {key.removesuffix("_path"): str(path) for key, path in entry.items() if key.endswith("_path")}
    for kind, file in files.items():
        try:
            read(Path(file).read_bytes() if client is None else client.get(file, kind))
        except Exception as reason:  # of the operating system, of a database, or of the image
            unreadable.append(f"{kind.upper()} {file} cannot be read as an image: {reason}")
    what = " and ".join(files.values()) or f"image number {index}"
    return printable("; ".join(unreadable) or f"{what}: {one_line(error)}")
