"""Picture files out: PNG, JPEG, WebP, BMP and TIFF, 8 and 16 bit, with their metadata.

Pillow writes no colours of 16 bits: 16-bit PNG and all TIFF files are put together here.
"""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin, TiffTags

from contrast_arch.errors import InputError
from contrast_arch.inference.images import DESCRIPTIVE, ICC_TAG, IFDS, XMP_TAG, Picture, copied_exif, to_pillow

# Pixels a side; the largest that the format's header can say.
LARGEST = {"JPEG": 65_535, "WEBP": 16_383}
# Formats without alpha.
OPAQUE = ("JPEG", "BMP")
# Between size and time: of 512x512 pixels in RGB 6, the usual one, takes 2.5 times as long.
ZLIB_LEVEL = 3
# Types of a TIFF file's tags that Pillow would write as others.
TAG_TYPES = {ICC_TAG: TiffTags.UNDEFINED, XMP_TAG: TiffTags.BYTE} | dict.fromkeys(IFDS, TiffTags.LONG)


def encode(picture: Picture, format: str, quality: int = 95, software: str | None = None) -> bytes:
    """Make an image file; 8 bit where the format has no 16.

    Args:
        format: PNG, JPEG, WEBP, BMP or TIFF.
        quality: of JPEG and WebP, 1 to 100.
        software: what made the image, for PNG's text or EXIF's Software; None leaves what is there.

    Raises:
        InputError: the format cannot hold the picture: transparency in JPEG and BMP, or too many pixels a side.
    """
    pixels, kind, icc = picture.pixels, picture.kind, picture.icc
    width, height = pixels.shape[1::-1]
    check_size(width, height, format)
    check_alpha(picture, format)
    if format in OPAQUE and kind in ("LA", "RGBA"):
        pixels, kind = pixels[..., :-1], kind[:-1]
    if pixels.dtype == np.uint16 and format in ("JPEG", "WEBP", "BMP"):
        pixels = _to_8_bits(pixels)
    if kind == "CMYK" and format in ("PNG", "WEBP", "BMP"):
        pixels, kind, icc = _cmyk_to_srgb(pixels, icc), "RGB", None
    exif = _sized(picture.exif, width, height)
    if software and format != "PNG":
        exif[ExifTags.Base.Software] = software
    if format == "TIFF":
        return _tiff(pixels, kind, exif, icc, picture)
    # WebP has no grey; three equal channels come back as they are, and the profile of a grey image does not fit them.
    given = {"icc_profile": None if format == "WEBP" and kind in ("L", "LA") else icc, "dpi": picture.dpi}
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


def check_size(width: int, height: int, format: str) -> None:
    """Refuse sizes that a format cannot store."""
    most = LARGEST.get(format)
    if most and max(width, height) > most:
        raise InputError(f"{width}x{height}: {format} holds at most {most} pixels a side; take --format png")


def check_alpha(picture: Picture, format: str) -> None:
    """Refuse transparent pictures for a format that has no alpha."""
    alpha = picture.pixels[..., -1]
    if format in OPAQUE and picture.kind in ("LA", "RGBA") and (alpha != np.iinfo(alpha.dtype).max).any():
        raise InputError(f"the image is transparent in places, which {format} cannot store; take --format png or webp")


def _sized(exif, width, height):
    """A copy of EXIF data in which the sizes it names are those of the image."""
    copy = Image.Exif()
    if len(exif):
        copy.load(exif.tobytes())
    sizes = {ExifTags.Base.ExifImageWidth: width, ExifTags.Base.ExifImageHeight: height}
    details = copy.get_ifd(ExifTags.IFD.Exif)
    details.update({tag: value for tag, value in sizes.items() if tag in details})
    return copy


def _to_8_bits(pixels):
    # 65535 / 255 = 257
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _cmyk_to_srgb(pixels, icc):
    image = to_pillow(_to_8_bits(pixels) if pixels.dtype == np.uint16 else pixels, "CMYK")
    if icc:
        try:
            source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
            return np.asarray(ImageCms.profileToProfile(image, source, srgb, outputMode="RGB"))
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile; the plain formula is what viewers take without one
    return np.asarray(image.convert("RGB"))


def _deep_png(pixels, kind, more):
    """A PNG of 16 bits: the chunks that Pillow writes of a small image, with header and pixels replaced."""
    file = io.BytesIO()
    Image.new(kind, (1, 1)).save(file, "PNG", **more)
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    # Filter 2: each byte less the one above.
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    colour = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[kind]
    new = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0),
        b"IDAT": zlib.compress(filtered.tobytes(), ZLIB_LEVEL),
    }
    source, target = file.getvalue(), io.BytesIO()
    target.write(source[:8])
    place = 8
    while place < len(source):
        (length,) = struct.unpack_from(">I", source, place)
        name, data = source[place + 4 : place + 8], source[place + 8 : place + 8 + length]
        PngImagePlugin.putchunk(target, name, new.get(name, data))
        place += length + 12
    return target.getvalue()


def _tiff(pixels, kind, exif, icc, picture):
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
        tag.PHOTOMETRIC_INTERPRETATION: {"L": 1, "R": 2, "C": 5}[kind[0]],
        tag.SAMPLESPERPIXEL: channels,
        tag.ROWSPERSTRIP: height,
        tag.STRIPBYTECOUNTS: len(data),
        tag.PREDICTOR: 2,
        tag.EXTRASAMPLES: 2 if kind in ("LA", "RGBA") else None,
        tag.X_RESOLUTION: picture.dpi and picture.dpi[0],
        tag.Y_RESOLUTION: picture.dpi and picture.dpi[1],
        tag.RESOLUTION_UNIT: picture.dpi and 2,
        ICC_TAG: icc,
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
