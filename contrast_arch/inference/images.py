"""Picture files in and out: PNG, JPEG, WebP, BMP and TIFF, 8 and 16 bit, with their metadata.

Pillow keeps 8 of the 16 bits of colours and writes none of 16: their upper and lower bytes are decoded one after the
other, and 16-bit PNG and all TIFF files are put together here.
"""

import io
import re
import struct
import sys
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin, TiffTags, UnidentifiedImageError

from contrast_arch.errors import InputError, one_line
from contrast_arch.images import MAX_PIXELS, raw_mode

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}
SUFFIXES |= {".tiff": "TIFF"}
# JPEG includes MPO, a JPEG with previews after it, as phones write it.
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
KINDS = ("L", "LA", "RGB", "RGBA")
# Of a TIFF file's tags those that say nothing about how its pixels are stored.
_DESCRIPTIVE = ("ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "HostComputer", "Copyright")
DESCRIPTIVE = {ExifTags.Base[name] for name in _DESCRIPTIVE} | {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}
SIZES = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)
# Pixels a side that the encoders take.
LARGEST = {"JPEG": 65_500, "WEBP": 16_383}
# Formats without alpha.
OPAQUE = ("JPEG", "BMP")
# Between size and time: of 512x512 pixels in RGB 6, the usual one, takes 2.5 times as long.
ZLIB_LEVEL = 3


@dataclass
class Picture:
    """An image with what its file says beside the pixels.

    Attributes:
        pixels: (H, W, C), uint8 or uint16, upright; C of L, LA, RGB or RGBA.
        format: of the file: PNG, JPEG, WEBP, BMP or TIFF.
        metadata: ``icc_profile``, ``xmp``, ``dpi``, and ``exif`` without sizes, as Pillow's ``save`` takes
            them; only what there is.
    """

    pixels: np.ndarray
    format: str
    metadata: dict = field(default_factory=dict)


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
    layout, is_tiff = raw_mode(image), image.format == "TIFF"  # Pillow forgets the layout when it decodes
    bits = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) if is_tiff else 8
    try:
        transposed = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        ImageOps.exif_transpose(image, in_place=True)
        deep = bits > 8 or (image.format == "PNG" and ";16" in layout)
        pixels = _deep(image, layout, content) if deep else from_pillow(image)
        metadata = {key: image.info[key] for key in ("icc_profile", "xmp") if image.info.get(key)}
        if image.mode == "CMYK":  # whose profile fits no RGB
            metadata.pop("icc_profile", None)
        if min(dpi := image.info.get("dpi", (0,))) > 0:
            metadata["dpi"] = tuple(map(float, dpi[::-1] if transposed else dpi))
        exif = image.getexif()
        # A TIFF file's tags are its EXIF data to Pillow.
        for tag in set(exif) - DESCRIPTIVE if is_tiff else ():
            del exif[tag]
        for tag in SIZES if ExifTags.IFD.Exif in exif else ():
            exif.get_ifd(ExifTags.IFD.Exif).pop(tag, None)
        if len(exif):
            metadata["exif"] = exif.tobytes()
    except Exception as error:  # and its decoders for broken files
        raise InputError(one_line(error)) from error
    return Picture(pixels, "JPEG" if image.format == "MPO" else image.format, metadata)


def from_pillow(image: Image.Image) -> np.ndarray:
    """Pixels (H, W, C) of a Pillow image, uint8 or uint16; a transparent colour becomes alpha."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("I", "F", "LAB"):
        raise InputError(f"pixels of kind {image.mode}; expected 8 bits, or 16 bits of grey")
    kind = ("L" if image.mode in ("1", "L", "LA", "La") else "RGB") + "A" * image.has_transparency_data
    pixels = np.asarray(_cmyk_to_srgb(image) if image.mode == "CMYK" else image.convert(kind))
    return pixels.reshape(*pixels.shape[:2], -1)


def to_pillow(pixels: np.ndarray) -> Image.Image:
    """A Pillow image of pixels (H, W, C), not of colours of 16 bits: L, LA, RGB, RGBA or I;16."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _cmyk_to_srgb(image):
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (KeyError, ImageCms.PyCMSError, OSError):  # without a profile the plain formula is what viewers take
        return image.convert("RGB")


def _deep(image, layout, content):
    """Pixels of 16 bits of a decoded image, which has the upper ones of colours."""
    stored = re.fullmatch("(I|LA|RGBX?|RGBA);16(.?)", layout)
    if not stored or "transparency" in image.info:
        raise InputError(f"pixels stored as {layout}; expected 8 bits, or 16 bits of grey, RGB or RGBA, interleaved")
    name, order = stored.groups()
    if name == "I":
        inverted = image.format == "TIFF" and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        return 65535 - from_pillow(image) if inverted else from_pillow(image)
    again = open_image(content, max_pixels=1 << 62)
    if name == "LA":  # the four bytes of a pixel
        again._mode = rawmode = "RGBA"
    else:  # the byte that is the upper one in the other order
        rawmode = f"{name};16" + ("B" if order == "L" or (order == "N" and sys.byteorder == "little") else "L")
    again.tile = [
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:])) for tile in again.tile
    ]
    ImageOps.exif_transpose(again, in_place=True)
    lower = np.ascontiguousarray(again)
    if name == "LA":
        return lower.view(">u2").astype(np.uint16)
    return ((np.asarray(image).astype(np.uint16) << 8) | lower)[..., : len(name.removesuffix("X"))]


def check(width: int, height: int, picture: Picture) -> None:
    """Refuse a size that a picture's format cannot store, and transparent pixels for a format without alpha."""
    format, pixels = picture.format, picture.pixels
    most = LARGEST.get(format)
    if most and max(width, height) > most:
        raise InputError(f"{width}x{height}: {format} holds at most {most} pixels a side; take --format png")
    if format in OPAQUE and pixels.shape[-1] in (2, 4) and (pixels[..., -1] != np.iinfo(pixels.dtype).max).any():
        raise InputError(f"the image is transparent in places, which {format} cannot store; take --format png")


def encode(picture: Picture, quality: int = 95, software: str | None = None) -> bytes:
    """Make an image file in the format of a picture that passed :func:`check`; 8 bit where the format has no 16.

    Args:
        quality: of JPEG and WebP, 1 to 100.
        software: what made the image, for PNG's text or EXIF's Software; None leaves what is there.
    """
    pixels, format, exif = picture.pixels, picture.format, Image.Exif()
    if format in OPAQUE and pixels.shape[-1] in (2, 4):
        pixels = pixels[..., :-1]
    if pixels.dtype == np.uint16 and format in ("JPEG", "WEBP", "BMP"):
        # 65535 / 255 = 257
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    exif.load(picture.metadata.get("exif", b""))
    texts, xmp = PngImagePlugin.PngInfo(), picture.metadata.get("xmp")
    if software and format == "PNG":
        texts.add_itxt("Software", software)
    elif software:
        exif[ExifTags.Base.Software] = software
    if xmp and format == "PNG":
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    elif xmp and format == "TIFF":
        exif[TiffImagePlugin.XMP] = xmp
    more = {"pnginfo": texts, "compress_level": ZLIB_LEVEL, "quality": quality, "subsampling": 0}
    more |= picture.metadata | ({"exif": exif.tobytes()} if len(exif) else {})
    if format == "WEBP" and pixels.shape[-1] < 3:
        # WebP has no grey; three equal channels come back as they are, and the profile of grey does not fit them.
        more.pop("icc_profile", None)
    by_pillow = format != "TIFF" and not (format == "PNG" and pixels.dtype == np.uint16)
    file = io.BytesIO()
    (to_pillow(pixels) if by_pillow else Image.new(KINDS[pixels.shape[-1] - 1], (1, 1))).save(file, format, **more)
    if by_pillow:
        return file.getvalue()
    return _tiff(pixels, file, exif) if format == "TIFF" else _deep_png(pixels, file.getvalue())


def _deep_png(pixels, small):
    """A PNG of 16 bits, with the chunks that a small one has between header and pixels."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    # Filter 2: each byte less the one above.
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    file = io.BytesIO()
    file.write(small[:8])
    # The kind of colours is that of the small one.
    header = struct.pack(">II", width, height) + bytes([16, *small[25:29]])
    PngImagePlugin.putchunk(file, b"IHDR", header)
    file.write(small[33 : small.rindex(b"IDAT") - 4])
    PngImagePlugin.putchunk(file, b"IDAT", zlib.compress(filtered.tobytes(), ZLIB_LEVEL))
    PngImagePlugin.putchunk(file, b"IEND", b"")
    return file.getvalue()


def _tiff(pixels, small, exif):
    """A TIFF of one strip, compressed by zlib after a horizontal difference, with the other tags of a small one."""
    height, width, channels = pixels.shape
    little = pixels.astype(pixels.dtype.newbyteorder("<"))
    little[:, 1:] -= pixels[:, :-1]
    data = zlib.compress(little.tobytes(), ZLIB_LEVEL)
    tags, tag = TiffImagePlugin.ImageFileDirectory_v2(), TiffImagePlugin
    values = dict(Image.open(small).tag_v2) | {ifd: exif.get_ifd(ifd) for ifd in exif if ifd in TiffTags.TAGS_V2_GROUPS}
    values |= {
        tag.IMAGEWIDTH: width,
        tag.IMAGELENGTH: height,
        tag.BITSPERSAMPLE: (pixels.dtype.itemsize * 8,) * channels,
        tag.COMPRESSION: 8,
        tag.PREDICTOR: 2,
        tag.ROWSPERSTRIP: height,
        tag.STRIPBYTECOUNTS: len(data),
        # Relative to the end of the tags, which is where the pixels follow.
        tag.STRIPOFFSETS: 0,
    }
    for number, value in values.items():
        tags[number] = value
    file = io.BytesIO()
    tags.save(file)
    file.write(data)
    return file.getvalue()
