"""Picture files in: PNG, JPEG, WebP, BMP and TIFF, 8 and 16 bit, with their metadata.

Pillow decodes everything. It keeps 8 of the 16 bits of colour images; those are decoded twice, once for the upper and
once for the lower bytes. Files are written by :mod:`contrast_arch.inference.encoding`.
"""

import io
import re
import struct
import sys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from contrast_arch.errors import InputError, one_line
from contrast_arch.images import MAX_PIXELS, raw_mode

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}
SUFFIXES |= {".tiff": "TIFF"}
# JPEG includes MPO, a JPEG with previews after it, as phones write it.
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
# What Pillow opens, as one of CHANNELS; palettes and what has a transparent colour are treated apart.
MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
MODES |= dict.fromkeys(("I;16", "I;16B", "I;16L", "I;16N"), "L") | {kind: kind for kind in CHANNELS}
XMP_TAG, ICC_TAG = 700, 34675
IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# Of a TIFF file's tags those that say nothing about how its pixels are stored.
_DESCRIPTIVE = ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "HostComputer", "Copyright")
DESCRIPTIVE = {ExifTags.Base[name] for name in _DESCRIPTIVE} | set(IFDS)
# Orientations 2 to 8 of an array: transposed first, then flipped along axes.
FLIPPED = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}
XMP_ORIENTATION = re.compile(rb'\s?tiff:Orientation="\d"|<tiff:Orientation>\d</tiff:Orientation>')


@dataclass
class Picture:
    """An image with what its file says beside the pixels.

    Attributes:
        pixels: (H, W, C), uint8 or uint16, upright; C as :data:`CHANNELS` has it.
        kind: L, LA, RGB, RGBA or CMYK (0 is no ink).
        format: of the file: PNG, JPEG, WEBP, BMP or TIFF.
        exif: without orientation.
        icc, xmp: as they stand in the file, None without.
        dpi: horizontal and vertical, None without.
    """

    pixels: np.ndarray
    kind: str
    format: str
    exif: Image.Exif = field(default_factory=Image.Exif)
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


def open_image(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header of an image file.

    Raises:
        InputError: another format, too many pixels, or more than one page or frame.
    """
    if not content:
        raise InputError("the file is empty")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise InputError("damaged, or not a PNG, JPEG, WebP, BMP or TIFF image that Pillow reads") from error
    except Exception as error:  # Pillow's plugins raise many kinds for broken headers
        raise InputError(one_line(error)) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(
            f"{width}x{height} are {width * height:,} pixels, expected at most {max_pixels:,}; if you trust the file, "
            f"--max-pixels {width * height}"
        )
    # They are not counted: a small file may have millions.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise InputError("several pages or frames; expected one, save them as files of their own")
    if image.mode not in MODES and image.mode != "P":
        raise InputError(
            f"pixels of kind {image.mode}; expected 8 or 16 bit grey, palette, RGB or CMYK, with alpha or not"
        )
    return image


def read(content: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image file; it is refused as by :func:`open_image`, or where it is damaged."""
    image = open_image(content, max_pixels)
    # Pillow forgets it when it decodes, and a PNG's EXIF data may stand after the pixels.
    rawmode = raw_mode(image)
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation)
        pixels, kind = _deep(image, rawmode, content) or from_pillow(image)
        exif.pop(ExifTags.Base.Orientation, None)
        picture = Picture(pixels, kind, "JPEG" if image.format == "MPO" else image.format, exif)
        picture.icc, picture.xmp, picture.dpi = image.info.get("icc_profile"), _xmp(image), _dpi(image)
        if image.format == "TIFF":
            picture.exif = copied_exif(exif, DESCRIPTIVE)
    except InputError:
        raise
    except Exception as error:  # and its decoders for broken files
        raise InputError(one_line(error)) from error
    transposed = orientation in (5, 6, 7, 8)
    if transposed and picture.dpi:
        picture.dpi = picture.dpi[::-1]
    if image.format != "TIFF":  # which Pillow turns itself
        upright = np.flip(pixels.swapaxes(0, 1) if transposed else pixels, FLIPPED.get(orientation, ()))
        picture.pixels = np.ascontiguousarray(upright)
    return picture


def from_pillow(image: Image.Image) -> tuple[np.ndarray, str]:
    """Pixels (H, W, C) of a Pillow image, uint8 or uint16, and their kind."""
    transparency = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        return _with_transparency(np.asarray(image).astype(np.uint16)[..., None], transparency)
    if image.mode == "P":
        kind = "RGBA" if transparency is not None else "RGB"
        pixels = np.asarray(image.convert(kind))
        # A profile of three channels fits no grey image.
        if "icc_profile" not in image.info and (pixels[..., :1] == pixels[..., 1:3]).all():
            return (pixels[..., [0, 3]], "LA") if kind == "RGBA" else (pixels[..., :1], "L")
        return pixels, kind
    if image.mode not in MODES:
        raise InputError(f"pixels of kind {image.mode}; expected one of {', '.join(MODES)}, P")
    kind = MODES[image.mode]
    if transparency is not None and kind in ("L", "RGB"):
        kind += "A"
    pixels = np.asarray(image if image.mode == kind else image.convert(kind))
    return pixels.reshape(*pixels.shape[:2], -1), kind


def to_pillow(pixels: np.ndarray, kind: str) -> Image.Image:
    """A Pillow image of pixels (H, W, C): of mode ``kind``, I;16 for 16-bit grey."""
    if pixels.dtype == np.uint16:
        if kind != "L":
            raise InputError(f"{kind} of 16 bits: Pillow has no such images; pass an array")
        kind, pixels = "I;16", pixels.astype("<u2")
    return Image.frombytes(kind, pixels.shape[1::-1], np.ascontiguousarray(pixels).tobytes())


def copied_exif(exif: Image.Exif, tags: Iterable[int]) -> Image.Exif:
    """Copy tags of EXIF data."""
    kept = Image.Exif()
    for tag in set(tags) & set(exif):
        kept[tag] = dict(exif.get_ifd(tag)) if tag in IFDS else exif[tag]
    return kept


def _xmp(image):
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return XMP_ORIENTATION.sub(b"", xmp) if xmp else None


def _dpi(image):
    try:
        dpi = tuple(float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return dpi if len(dpi) == 2 and min(dpi) > 0 else None


def _deep(image, rawmode, content):
    """Pixels of 16 bits and their kind; None for an image of 8 bits."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if ";16" not in rawmode:
        bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
        if bits > 8:
            raise InputError(
                f"a TIFF of {bits} bits stored in a way that Pillow does not read; expected 16 bits, interleaved"
            )
        return None
    if rawmode.startswith("LA"):
        # As a PNG of 8-bit RGBA: the four bytes of a pixel.
        header = b"IHDR" + content[16:24] + bytes([8, 6]) + content[26:29]
        content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
        pixels = np.asarray(open_image(content, 1 << 62))
        return np.ascontiguousarray(pixels).view(">u2").astype(np.uint16), "LA"
    if image.mode.startswith("I;16"):
        pixels, kind = from_pillow(image)
        return 65535 - pixels if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 else pixels, kind
    name, _, order = rawmode.replace("a", "A").partition(";16")
    upper, lower = (_bytes_of(content, f"{name};16{half}") for half in "BL")
    if order == "L" or (order == "N" and sys.byteorder == "little"):
        upper, lower = lower, upper
    kind = "RGB" if name == "RGBX" else MODES[image.mode]
    pixels = ((upper.astype(np.uint16) << 8) | lower)[..., : CHANNELS[kind]]
    if rawmode.startswith("RGBa"):  # the colours are multiplied by alpha
        alpha = pixels[..., 3:].astype(np.float64)
        colour = np.divide(pixels[..., :3] * 65535.0, alpha, out=np.zeros((*alpha.shape[:2], 3)), where=alpha > 0)
        pixels = np.concatenate([colour.round().clip(0, 65535).astype(np.uint16), pixels[..., 3:]], -1)
    return _with_transparency(pixels, image.info.get("transparency")) if kind == "RGB" else (pixels, kind)


def _bytes_of(content, rawmode):
    image = open_image(content, max_pixels=1 << 62)
    image.tile = [
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:])) for tile in image.tile
    ]
    return np.asarray(image)


def _with_transparency(pixels, colour):
    """16-bit pixels with alpha where the file names a transparent colour."""
    kind = "L" if pixels.shape[-1] == 1 else "RGB"
    if colour is None:
        return pixels, kind
    visible = (pixels != np.asarray(colour, np.uint16)).any(-1, keepdims=True)
    return np.concatenate([pixels, visible.astype(np.uint16) * 65535], -1), f"{kind}A"
