"""Picture files in and out: PNG, JPEG, WebP, BMP and TIFF, 8 and 16 bit, with their metadata.

Pillow decodes everything. It keeps 8 of the 16 bits of colour images; those are decoded twice, once for the upper and
once for the lower bytes. It writes no colours of 16 bits: 16-bit PNG and all TIFF files are put together here.
"""

import io
import re
import struct
import sys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin, TiffTags, UnidentifiedImageError

from contrast_arch.errors import InputError, one_line
from contrast_arch.images import MAX_PIXELS, raw_mode

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}
SUFFIXES |= {".tiff": "TIFF"}
# JPEG includes MPO, a JPEG with previews after it, as phones write it.
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
KINDS = ("L", "LA", "RGB", "RGBA")
# Modes of Pillow, and the kind of pixels that they become; a transparent colour adds an A.
MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA", "I;16": "L", "I;16B": "L", "I;16L": "L", "I;16N": "L"}
MODES |= dict.fromkeys(("P", "RGBX", "YCbCr", "HSV", "CMYK"), "RGB") | dict(zip(KINDS, KINDS, strict=True))
XMP_TAG, ICC_TAG = 700, 34675
IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# Types of a TIFF file's tags that Pillow would write as others.
TAG_TYPES = {ICC_TAG: TiffTags.UNDEFINED, XMP_TAG: TiffTags.BYTE} | dict.fromkeys(IFDS, TiffTags.LONG)
# Of a TIFF file's tags those that say nothing about how its pixels are stored.
_DESCRIPTIVE = ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "HostComputer", "Copyright")
DESCRIPTIVE = {ExifTags.Base[name] for name in _DESCRIPTIVE} | set(IFDS)
SIZES = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)
# Orientations 2 to 8 of an array: transposed first, then flipped along axes.
FLIPPED = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}
XMP_ORIENTATION = re.compile(rb'\s?tiff:Orientation="\d"|<tiff:Orientation>\d</tiff:Orientation>')
# Pixels a side; the largest that the format's header can say.
LARGEST = {"JPEG": 65_535, "WEBP": 16_383}
# Formats without alpha.
OPAQUE = ("JPEG", "BMP")
# Between size and time: of 512x512 pixels in RGB 6, the usual one, takes 2.5 times as long.
ZLIB_LEVEL = 3


@dataclass
class Picture:
    """An image with what its file says beside the pixels.

    Attributes:
        pixels: (H, W, C), uint8 or uint16, upright.
        kind: L, LA, RGB or RGBA.
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
    return image


def read(content: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image file; it is refused as by :func:`open_image`, or where it is damaged."""
    image = open_image(content, max_pixels)
    # Pillow forgets it when it decodes, and a PNG's EXIF data may stand after the pixels.
    rawmode = raw_mode(image)
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation)
        bits = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) if image.format == "TIFF" else 8
        deep = bits > 8 or (image.format == "PNG" and ";16" in rawmode)
        pixels, kind = _read_deep(image, rawmode, content) if deep else from_pillow(image)
        exif.pop(ExifTags.Base.Orientation, None)
        picture = Picture(pixels, kind, "JPEG" if image.format == "MPO" else image.format, exif)
        # A profile of inks fits no RGB.
        picture.icc = None if image.mode == "CMYK" else image.info.get("icc_profile")
        picture.xmp, picture.dpi = _xmp(image), _dpi(image)
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
    if image.mode not in MODES:
        raise InputError(f"pixels of kind {image.mode}; expected one of {', '.join(MODES)}")
    kind = MODES[image.mode]
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None], kind
    if "transparency" in image.info and kind in ("L", "RGB"):
        kind += "A"
    pixels = np.asarray(_cmyk_to_srgb(image) if image.mode == "CMYK" else image.convert(kind))
    return pixels.reshape(*pixels.shape[:2], -1), kind


def to_pillow(pixels: np.ndarray, kind: str) -> Image.Image:
    """A Pillow image of pixels (H, W, C): of mode ``kind``, I;16 for 16-bit grey."""
    if pixels.dtype == np.uint16:
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


def _cmyk_to_srgb(image):
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (KeyError, ImageCms.PyCMSError, OSError):  # without a profile the plain formula is what viewers take
        return image.convert("RGB")


def _read_deep(image, rawmode, content):
    """Pixels of 16 bits and their kind."""
    if rawmode.startswith("LA"):
        # As a PNG of 8-bit RGBA: the four bytes of a pixel.
        header = b"IHDR" + content[16:24] + bytes([8, 6]) + content[26:29]
        content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
        pixels = np.asarray(open_image(content, 1 << 62))
        return np.ascontiguousarray(pixels).view(">u2").astype(np.uint16), "LA"
    name, deep, order = rawmode.partition(";16")
    if not deep or "transparency" in image.info or name not in ("I", "RGB", "RGBA", "RGBX"):
        raise InputError(f"pixels stored as {rawmode}; expected 8 bits, or 16 bits of grey, RGB or RGBA, interleaved")
    if name == "I":
        pixels, kind = from_pillow(image)
        inverted = image.format == "TIFF" and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        return 65535 - pixels if inverted else pixels, kind
    upper, lower = (_bytes_of(content, f"{name};16{half}") for half in "BL")
    if order == "L" or (order == "N" and sys.byteorder == "little"):
        upper, lower = lower, upper
    kind = name.removesuffix("X")
    return ((upper.astype(np.uint16) << 8) | lower)[..., : len(kind)], kind


def _bytes_of(content, rawmode):
    image = open_image(content, max_pixels=1 << 62)
    image.tile = [
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:])) for tile in image.tile
    ]
    return np.asarray(image)


def check(width: int, height: int, format: str, picture: Picture | None = None) -> None:
    """Refuse a size that a format cannot store, and a transparent picture for a format without alpha."""
    most = LARGEST.get(format)
    if most and max(width, height) > most:
        raise InputError(f"{width}x{height}: {format} holds at most {most} pixels a side; take --format png")
    if format in OPAQUE and picture and picture.kind in ("LA", "RGBA"):
        alpha = picture.pixels[..., -1]
        if (alpha != np.iinfo(alpha.dtype).max).any():
            raise InputError(f"the image is transparent in places, which {format} cannot store; take --format png")


def encode(picture: Picture, quality: int = 95, software: str | None = None) -> bytes:
    """Make an image file in the format of a picture that passed :func:`check`; 8 bit where the format has no 16.

    Args:
        quality: of JPEG and WebP, 1 to 100.
        software: what made the image, for PNG's text or EXIF's Software; None leaves what is there.
    """
    pixels, kind, format = picture.pixels, picture.kind, picture.format
    if format in OPAQUE and kind in ("LA", "RGBA"):
        pixels, kind = pixels[..., :-1], kind[:-1]
    if pixels.dtype == np.uint16 and format in ("JPEG", "WEBP", "BMP"):
        # 65535 / 255 = 257
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    exif = Image.Exif()
    exif.load(picture.exif.tobytes() if len(picture.exif) else b"")
    for tag in SIZES:
        exif.get_ifd(ExifTags.IFD.Exif).pop(tag, None)
    if software and format != "PNG":
        exif[ExifTags.Base.Software] = software
    if format == "TIFF":
        return _tiff(pixels, kind, exif, picture)
    # WebP has no grey; three equal channels come back as they are, and the profile of a grey image does not fit them.
    given = {"icc_profile": None if format == "WEBP" and kind in ("L", "LA") else picture.icc, "dpi": picture.dpi}
    given |= {"exif": exif.tobytes() if len(exif) else None, "xmp": picture.xmp}
    if format == "PNG":
        texts = PngImagePlugin.PngInfo()
        if software:
            texts.add_itxt("Software", software)
        if picture.xmp:
            texts.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
        given |= {"pnginfo": texts, "compress_level": ZLIB_LEVEL, "xmp": None}
    else:
        given |= {"quality": quality, "subsampling": 0 if format == "JPEG" else None}
    more = {name: value for name, value in given.items() if value is not None}
    if format == "PNG" and pixels.dtype == np.uint16:
        return _deep_png(pixels, kind, more)
    file = io.BytesIO()
    to_pillow(pixels, kind).save(file, format, **more)
    return file.getvalue()


def _deep_png(pixels, kind, more):
    """A PNG of 16 bits, with the chunks that Pillow writes of a small image between header and pixels."""
    small, file = io.BytesIO(), io.BytesIO()
    Image.new(kind, (1, 1)).save(small, "PNG", **more)
    source, (height, width) = small.getvalue(), pixels.shape[:2]
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    # Filter 2: each byte less the one above.
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    colour = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[kind]
    file.write(source[:8])
    PngImagePlugin.putchunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    file.write(source[33 : source.rindex(b"IDAT") - 4])
    PngImagePlugin.putchunk(file, b"IDAT", zlib.compress(filtered.tobytes(), ZLIB_LEVEL))
    PngImagePlugin.putchunk(file, b"IEND", b"")
    return file.getvalue()


def _tiff(pixels, kind, exif, picture):
    """A TIFF of one strip, compressed by zlib after a horizontal difference; Pillow writes no 16-bit colours."""
    height, width, channels = pixels.shape
    little = pixels.astype(pixels.dtype.newbyteorder("<"))
    little[:, 1:] -= pixels[:, :-1]
    data = zlib.compress(little.tobytes(), ZLIB_LEVEL)
    tags, tag = TiffImagePlugin.ImageFileDirectory_v2(), TiffImagePlugin
    values = dict(copied_exif(exif, DESCRIPTIVE)) | {
        tag.IMAGEWIDTH: width,
        tag.IMAGELENGTH: height,
        tag.BITSPERSAMPLE: (pixels.dtype.itemsize * 8,) * channels,
        tag.COMPRESSION: 8,
        tag.PHOTOMETRIC_INTERPRETATION: 1 if kind in ("L", "LA") else 2,
        tag.SAMPLESPERPIXEL: channels,
        tag.ROWSPERSTRIP: height,
        tag.STRIPBYTECOUNTS: len(data),
        tag.PREDICTOR: 2,
        tag.EXTRASAMPLES: 2 if kind in ("LA", "RGBA") else None,
        tag.X_RESOLUTION: picture.dpi and picture.dpi[0],
        tag.Y_RESOLUTION: picture.dpi and picture.dpi[1],
        tag.RESOLUTION_UNIT: picture.dpi and 2,
        ICC_TAG: picture.icc,
        XMP_TAG: picture.xmp,
        # Relative to the end of the tags, which is where the pixels follow.
        tag.STRIPOFFSETS: 0,
    }
    for number, value in values.items():
        if value is not None:
            tags[number] = value
            tags.tagtype |= {number: TAG_TYPES[number]} if number in TAG_TYPES else {}
    file = io.BytesIO()
    tags.save(file)
    file.write(data)
    return file.getvalue()
